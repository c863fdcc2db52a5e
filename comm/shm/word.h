// Word: a counter in shared memory that only grows, on which other processes can wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/clock.h"

namespace lockstep::comm::shm {

// A cache line of its own: ranks that watch one word must not disturb another. Counts wrap around;
// comparisons allow for it. A process that dies while waiting leaves `sleepers` too high, which
// costs the writer a system call and nothing else.
struct alignas(64) Word {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};

  bool reached(uint32_t target) const {
    return static_cast<int32_t>(value.load(std::memory_order_acquire) - target) >= 0;
  }
  // Everything written before is visible to whoever sees the new value. One writer at a time.
  void publish(uint32_t now);
  // Sleeps until the word is published, somebody wakes it or `limit` has passed – or for no reason;
  // the caller looks again.
  void sleep(uint32_t target, Duration limit);
  void wake();
};
static_assert(std::atomic<uint32_t>::is_always_lock_free, "words are shared between processes");

}  // namespace lockstep::comm::shm
