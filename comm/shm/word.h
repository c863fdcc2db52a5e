// Word: a counter in shared memory that only grows, on which other processes can wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/clock.h"

namespace lockstep::comm::shm {

// Each word has a cache line of its own, so ranks that watch one word do not disturb another.
// Counts wrap around, and comparisons allow for it. If a process dies while it waits, `sleepers`
// stays too high, which only costs the writer a system call.
struct alignas(64) Word {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};

  bool reached(uint32_t target) const {
    return static_cast<int32_t>(value.load(std::memory_order_acquire) - target) >= 0;
  }
  // Readers of the new value also see everything written before. Only one thread may write.
  void publish(uint32_t now);
  // Sleeps until the word is published, a thread wakes it, or `limit` has passed. It may also
  // return for no reason, so the caller must check again.
  void sleep(uint32_t target, Duration limit);
  void wake();
};
static_assert(std::atomic<uint32_t>::is_always_lock_free, "words are shared between processes");

}  // namespace lockstep::comm::shm
