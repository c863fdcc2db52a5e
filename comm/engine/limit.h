// Limit: until when a call may run – its group's time limit, or less where somebody who waits for
// the call gives up.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "comm/interrupt.h"
#include "core/base/clock.h"
#include "core/base/error.h"

namespace lockstep::comm {

// How long calls wait for other ranks.
struct Patience {
  // The same for both; from a duration of any unit.
  template <typename Count, typename Unit>
  Patience(std::chrono::duration<Count, Unit> for_any) : limit(for_any), stopped(for_any) {}
  Patience(Duration for_any, Duration for_stopped) : limit(for_any), stopped(for_stopped) {}
  Duration limit;    // for any rank
  Duration stopped;  // for a rank whose process is stopped (SIGSTOP, Ctrl-Z, a debugger), from when
                     // that is seen
};

// When to say for the next time that a rank holds up the others, after it has been said `times`
// times: a job whose ranks differ says it rarely, and one that hangs says it within seconds.
constexpr Duration say_after(uint32_t times) {
  return std::chrono::seconds(10) * (int64_t{1} << std::min<uint32_t>(times, 20));
}

// Which calls of a lane are given up: all up to a number, for a call cannot end before those in
// front of it. Thread-safe.
class GivenUp {
 public:
  // `waited`: how long somebody waited for call `number`.
  void through(uint64_t number, Duration waited) {
    waited_ns_.store(waited.count(), std::memory_order_relaxed);
    uint64_t before = number_.load(std::memory_order_relaxed);
    while (before < number &&
           !number_.compare_exchange_weak(before, number, std::memory_order_release)) {
    }
  }
  bool covers(uint64_t number) const { return number <= number_.load(std::memory_order_acquire); }
  Duration waited() const { return Duration(waited_ns_.load(std::memory_order_relaxed)); }
  // All calls, present and later: their group goes, and its other ranks may do without them. They
  // end quietly.
  void withdraw() { withdrawn_.store(true, std::memory_order_release); }
  bool withdrawn() const { return withdrawn_.load(std::memory_order_acquire); }

 private:
  std::atomic<uint64_t> number_ = 0;
  std::atomic<int64_t> waited_ns_ = 0;
  std::atomic<bool> withdrawn_ = false;
};

// A value; cheap to copy.
class Limit {
 public:
  // Never given up. Implicit: whoever forms a group has a deadline and nothing else.
  Limit(Deadline deadline, std::string_view what = "") : what_(what), deadline_(deadline) {}
  // From now on, never given up: for whoever forms a group of ranks that may be stopped meanwhile.
  explicit Limit(const Patience& patience)
      : patience_(patience), deadline_(Deadline::after(patience.limit)) {}
  // From now on, for call `number` of the lane whose waiters say in `given_up` what they give up.
  // `what` and it must outlive the call.
  Limit(std::string_view what, const Patience& patience, const GivenUp& given_up, uint64_t number)
      : what_(what),
        patience_(patience),
        deadline_(Deadline::after(patience.limit)),
        given_up_(&given_up),
        number_(number) {}

  // The call in words, for messages: "all_reduce #12 (…) in group 'world' on rank 0 of 4". Empty
  // where a group forms.
  std::string_view what() const { return what_; }
  bool passed() const { return withdrawn() || passed_in_time(); }
  // The same but for a withdrawal, which is for whoever knows whether the message has come.
  bool passed_in_time() const {
    return is_given_up() || InterruptScope::interrupted() || deadline_.passed();
  }
  // The call is a receive of a group that goes: it must end as if it had never been made, and end
  // nothing else.
  bool withdrawn() const { return heeds_withdrawal_ && given_up_ && given_up_->withdrawn(); }
  // The same limit for a message that has begun to come: nothing withdraws it any more.
  Limit of_begun_message() const {
    Limit limit = *this;
    limit.heeds_withdrawal_ = false;
    return limit;
  }
  const Deadline& deadline() const { return deadline_; }
  void set_deadline(const Deadline& deadline) { deadline_ = deadline; }
  // Whether a rank that has been stopped for so long counts as missing.
  bool passed_for_stopped(Duration stopped) const { return stopped >= patience_.stopped; }
  // How long a waiter may sleep before it looks at the limit again: nobody wakes it when the call
  // is given up. Never negative.
  Duration nap() const {
    return std::min<Duration>(std::chrono::milliseconds(50), deadline_.remaining());
  }
  // Never negative.
  Duration remaining() const { return passed() ? Duration::zero() : deadline_.remaining(); }
  // Once it has passed, what has: the beginning of the message.
  std::string reached() const {
    if (is_given_up()) return str("given up after a wait of ", seconds(given_up_->waited()), " s");
    if (withdrawn()) return "withdrawn, as this rank destroys the group";
    if (InterruptScope::interrupted()) return "interrupted";
    if (!deadline_.passed())
      return str("limit of ", seconds(patience_.stopped), " s for a stopped rank reached");
    return patience_.limit > Duration::zero()
               ? str("time limit of ", seconds(patience_.limit), " s reached")
               : "time limit reached";
  }

 private:
  bool is_given_up() const { return given_up_ && given_up_->covers(number_); }

  std::string_view what_;
  Patience patience_{Duration::zero(), kLongestLimit};
  Deadline deadline_;
  const GivenUp* given_up_ = nullptr;
  bool heeds_withdrawal_ = true;
  uint64_t number_ = 0;
};

}  // namespace lockstep::comm
