// Time for waits and measurements. It is monotonic, so a step of the wall clock cannot disturb a
// run.
#pragma once

#include <algorithm>
#include <chrono>

namespace lockstep {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;

// The longest limit. Longer ones, such as Duration::max(), count as this one. It is far below the
// range of the clocks, so callers may add a time and a remaining limit without overflow.
inline constexpr Duration kLongestLimit = std::chrono::hours(24 * 365 * 100);

// The time at which a wait gives up. A value, cheap to copy. Use it for every `now + limit`.
class Deadline {
 public:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  static Deadline after(Duration limit) {
    return Deadline(Clock::now() + std::clamp(limit, Duration::zero(), kLongestLimit));
  }

  bool passed() const { return Clock::now() >= at_; }
  // Never negative.
  Duration remaining() const {
    return std::max(Duration::zero(), std::chrono::duration_cast<Duration>(at_ - Clock::now()));
  }
  Clock::time_point at() const { return at_; }

 private:
  Clock::time_point at_;
};

inline double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline double milliseconds(Duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace lockstep
