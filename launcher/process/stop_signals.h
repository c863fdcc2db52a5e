// StopSignals: the signals that an agent handles, as records of a pipe, while the object lives. One
// object at a time in a process. It also sets what else an agent needs and a process may have
// inherited otherwise: the signals are not blocked; SIGCHLD is not ignored, so that ranks can be
// waited for; SIGPIPE and SIGXFSZ (a limit on file sizes) are ignored, so that a write fails
// instead. The destructor restores all of it. A SIGHUP that was ignored stays ignored (nohup).
#pragma once

#include <csignal>
#include <iterator>
#include <optional>

#include "core/base/clock.h"
#include "launcher/base/stop_wish.h"

namespace lockstep::launcher {

class StopSignals {
 public:
  struct Arrival {
    int signal = 0;
    Duration at{};  // monotonic; however late the agent looks
  };

  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int fd() const { return read_end_; }  // readable when a signal came
  // The next signal, if one came. Never blocks.
  std::optional<Arrival> next();

 private:
  static constexpr int kOthers[] = {SIGCHLD, SIGPIPE, SIGXFSZ};

  int read_end_ = -1;
  sigset_t mask_before_{};
  struct sigaction before_[std::size(kStopSignals)]{};
  struct sigaction others_before_[std::size(kOthers)]{};
};

// Blocks all signals of the calling thread while it lives: around a fork, whose child would else
// run the handlers of its parent, and count a signal for the whole process group as one more signal
// to the parent.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace lockstep::launcher
