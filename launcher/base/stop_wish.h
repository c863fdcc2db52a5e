// StopWish: tells one request to stop from several. One request often arrives as several signals. A
// scheduler signals every process of a job, `timeout` signals its child and then the whole process
// group, systemd adds SIGHUP, and an agent passes signals on. Together these are one request. Only
// a person who asks again is impatient.
#pragma once

#include <csignal>
#include <optional>

#include "core/base/clock.h"

namespace lockstep::launcher {

// The signals that ask a run to save and stop.
inline constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

// A plain value. take() allocates and locks nothing, so a signal handler may call it.
class StopWish {
 public:
  enum class Meaning {
    ask,     // the first signal: save and stop
    copy,    // the same request once more
    insist,  // somebody asks again: stop at once
  };
  // SIGINT and SIGTERM insist if the same signal arrived at least this long before. Other signals
  // never insist.
  static constexpr Duration kApart = std::chrono::seconds(1);

  // `at`: when the signal arrived, on a monotonic clock.
  Meaning take(int signal, Duration at) {
    const bool first = !asked_;
    asked_ = true;
    if (signal != SIGINT && signal != SIGTERM) return first ? Meaning::ask : Meaning::copy;
    std::optional<Duration>& before = signal == SIGINT ? interrupted_at_ : terminated_at_;
    if (before && at - *before >= kApart) return Meaning::insist;
    if (!before) before = at;
    return first ? Meaning::ask : Meaning::copy;
  }
  bool asked() const { return asked_; }

 private:
  bool asked_ = false;
  std::optional<Duration> interrupted_at_, terminated_at_;  // the first of each
};

}  // namespace lockstep::launcher
