// StopSignals: turns the signals that an agent handles into records of a pipe, while the object
// lives. Only one object may exist in a process at a time.
//
// It also corrects what the process may have inherited:
// - The signals are unblocked.
// - SIGCHLD is not ignored, so that ranks can be waited for.
// - SIGPIPE and SIGXFSZ (a limit on file sizes) are ignored, so that a write fails instead.
// - A SIGHUP that was ignored stays ignored (nohup).
// The destructor restores all of it.
#pragma once

#include <csignal>
#include <iterator>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "launcher/base/stop_wish.h"

namespace lockstep::launcher {

class StopSignals {
 public:
  struct Arrival {
    int signal = 0;
    Duration at{};  // monotonic time of the arrival, not of next()
  };

  // `more`: signals that are recorded as well. They must not be among kStopSignals.
  explicit StopSignals(std::span<const int> more = {});
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
  std::vector<std::pair<int, struct sigaction>> more_before_;
};

// Blocks all signals of the calling thread while the object lives. Needed around a fork: the child
// would otherwise run its parent's handlers, and a signal to the whole process group would count
// twice for the parent.
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
