// Limit: until when a call may run – its group's time limit, or less where somebody who waits for the call gives up.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "core/base/clock.h"
#include "core/base/error.h"

namespace lockstep::comm {

// Which calls of a lane are given up: all up to a number, for a call cannot end before those in front of it. Thread-safe.
class GivenUp {
 public:
  // `waited`: how long somebody waited for call `number`.
  void through(uint64_t number, Duration waited) {
    waited_ns_.store(waited.count(), std::memory_order_relaxed);
    uint64_t before = number_.load(std::memory_order_relaxed);
    while (before < number && !number_.compare_exchange_weak(before, number, std::memory_order_release)) {
    }
  }
  bool covers(uint64_t number) const { return number <= number_.load(std::memory_order_acquire); }
  Duration waited() const { return Duration(waited_ns_.load(std::memory_order_relaxed)); }

 private:
  std::atomic<uint64_t> number_ = 0;
  std::atomic<int64_t> waited_ns_ = 0;
};

// A value; cheap to copy.
class Limit {
 public:
  // Never given up. Implicit: whoever forms a group has a deadline and nothing else.
  Limit(Deadline deadline) : deadline_(deadline) {}
  // From now on, for call `number` of the lane whose waiters say in `given_up`, which must outlive the call, what they give up.
  Limit(Duration limit, const GivenUp& given_up, uint64_t number)
      : limit_(limit), deadline_(Deadline::after(limit)), given_up_(&given_up), number_(number) {}

  bool passed() const { return is_given_up() || deadline_.passed(); }
  // How long a waiter may sleep before it looks at the limit again: nobody wakes it when the call is given up. Never negative.
  Duration nap() const { return std::min<Duration>(std::chrono::milliseconds(50), deadline_.remaining()); }
  // Once it has passed, what has: the beginning of the message.
  std::string reached() const {
    if (is_given_up()) return str("given up after a wait of ", seconds(given_up_->waited()), " s");
    return limit_ > Duration::zero() ? str("time limit of ", seconds(limit_), " s reached") : "time limit reached";
  }

 private:
  bool is_given_up() const { return given_up_ && given_up_->covers(number_); }

  Duration limit_{};
  Deadline deadline_;
  const GivenUp* given_up_ = nullptr;
  uint64_t number_ = 0;
};

}  // namespace lockstep::comm
