// StopSignals: SIGINT, SIGTERM, SIGHUP and SIGUSR1 as bytes of a pipe, while the object lives. One at a time in a process.
// A SIGHUP that was ignored stays ignored (nohup).
#pragma once

#include <csignal>
#include <iterator>

namespace lockstep::launcher {

class StopSignals {
 public:
  static constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int fd() const { return read_end_; }  // readable when a signal came
  // The next signal, or 0. Never blocks.
  int next();

 private:
  int read_end_ = -1;
  struct sigaction before_[4]{};
  struct sigaction before_pipe_ {};
};

}  // namespace lockstep::launcher
