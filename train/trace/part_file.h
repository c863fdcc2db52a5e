// The timeline of one rank, as a file of trace events that grows while the rank runs
// (docs/formats/trace.md). A killed rank leaves what was drained by then, and each such file is a
// timeline by itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/base/clock.h"
#include "core/trace/trace.h"

namespace lockstep::train {

struct PartOptions {
  std::string path;
  int rank = 0;
  std::string process;   // "rank 0 on host node1 (pid 42)"
  int64_t shift_ns = 0;  // adds to this process's clock, for that of rank 0
  int64_t limit_bytes = 0;
  bool append = false;  // an earlier process of this rank has written here
};

// Used under the recorder's lock; ended() from any thread.
class PartFile : public trace::Sink {
 public:
  // Throws EnvironmentError if the file cannot be written.
  explicit PartFile(const PartOptions& options);
  ~PartFile() override;
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void take(const trace::ThreadInfo& thread, std::span<const trace::Event> events) override;
  // Why nothing more is written: the limit is reached, or a write failed. Empty: neither.
  std::string ended() const { return over_.load(std::memory_order_acquire) ? ended_ : ""; }
  // An event that is about the whole process, such as its clock's drift.
  void note(std::string_view name, const std::string& args_json);

 private:
  void name_thread(const trace::ThreadInfo& thread);
  void add(const trace::Event& event, int thread);
  const std::string& quoted(const char* text);
  void flush();
  void end(std::string why);

  const PartOptions options_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  std::string buffer_;
  std::string ended_;  // set before over_
  std::atomic<bool> over_{false};
  std::unordered_map<const char*, std::string> quoted_;  // as JSON
  std::unordered_map<int, std::string> threads_;         // whose names were written
};

// The file of a rank beside that of the whole run: FILE.rank-3.
std::string part_path(const std::string& file, int rank);

}  // namespace lockstep::train
