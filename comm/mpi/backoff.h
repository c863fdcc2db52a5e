// How a thread waits for MPI, which makes progress only while a thread polls it.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include <sched.h>

#include "core/base/clock.h"

namespace lockstep::comm::mpi {

// First yields, while the answer is probably near, so ranks that share a core take turns. Then
// naps, so a rank that waits for a slower one leaves the machine to it.
class Backoff {
 public:
  enum class Expect { message, data };

  // message: the peer may be busy with its own work. data: the peer is here, and bytes move while
  // we poll.
  explicit Backoff(Expect expect = Expect::message)
      : yield_until_(Clock::now() + (expect == Expect::data ? kYieldForData : kYieldForMessage)),
        longest_nap_(expect == Expect::data ? kNapForData : kNapForMessage) {}

  void pause() {
    if (Clock::now() < yield_until_) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(nap_);
    nap_ = std::min(nap_ * 2, longest_nap_);
  }

 private:
  static constexpr auto kYieldForMessage = std::chrono::microseconds(100);
  static constexpr auto kYieldForData = std::chrono::milliseconds(20);
  static constexpr auto kNapForMessage = std::chrono::microseconds(400);
  static constexpr auto kNapForData = std::chrono::microseconds(40);

  Clock::time_point yield_until_;
  std::chrono::microseconds nap_{20};
  std::chrono::microseconds longest_nap_;
};

}  // namespace lockstep::comm::mpi
