#include "comm/shm/word.h"

#include <algorithm>
#include <climits>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lockstep::comm::shm {

void Word::publish(uint32_t now) {
  // Both sides are sequentially consistent. So either the sleeper sees the new value, or we see the
  // sleeper.
  value.store(now, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) > 0) wake();
}

void Word::wake() { ::syscall(SYS_futex, &value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

void Word::sleep(uint32_t target, Duration limit) {
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t seen = value.load(std::memory_order_seq_cst);
  if (static_cast<int32_t>(seen - target) < 0) {
    const auto ns = std::max<int64_t>(limit.count(), 1);
    const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
    ::syscall(SYS_futex, &value, FUTEX_WAIT, seen, &time, nullptr, 0);
  }
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace lockstep::comm::shm
