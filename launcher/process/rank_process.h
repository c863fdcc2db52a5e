// RankProcess: one rank as its agent sees it: the process, its output, the place where it reports a
// failure, and how it ended.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/base/root_cause.h"
#include "launcher/process/child.h"
#include "launcher/process/guardian.h"
#include "launcher/process/memory_file.h"
#include "launcher/process/output.h"

namespace lockstep::launcher {

// Used by one thread.
class RankProcess {
 public:
  RankProcess(int rank, RankOutput::Options output, Guardian& guardian);
  // Kills the processes that are left of it.
  ~RankProcess();
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  std::string error_path() const { return error_file_.path(); }
  void start(const ChildSpec& spec);

  int rank() const { return rank_; }
  pid_t pid() const { return child_.pid; }
  int pid_fd() const { return child_.pid_fd; }
  int fd(Stream stream) const {
    return stream == Stream::output ? child_.output_fd : child_.error_fd;
  }
  bool running() const { return child_.pid_fd >= 0; }
  bool held_up(Stream stream) const { return output_.held_up(stream); }
  bool output_open() const { return child_.output_fd >= 0 || child_.error_fd >= 0; }

  void signal(int signal);
  // Reads the available bytes. Closes the stream at its end.
  void read(Stream stream);
  void close_output();
  // Records the end, ends what the rank left running, and reaps it. The caller fills in the times
  // and the signal that it had sent.
  RankEnd& collect();
  // Counts the rank as ended although it runs, because SIGKILL did not end it.
  RankEnd& give_up();
  const std::optional<RankEnd>& end() const { return end_; }
  std::vector<std::string> last_lines() const { return output_.last_lines(); }
  const std::string& log_file() const { return output_.log_file(); }

 private:
  void end_strays() const;

  int rank_;
  RankOutput output_;
  MemoryFile error_file_{"lockstep-error"};
  Guardian& guardian_;
  Child child_;
  std::optional<RankEnd> end_;
};

}  // namespace lockstep::launcher
