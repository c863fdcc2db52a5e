// AgentPage: memory that an agent shares with its guardian and its ranks. The agent's lease is in
// it, so ranks end in time even if the agent is frozen.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/clock.h"

namespace lockstep::launcher {

// Time since the host was started. Unlike Clock, it counts while the host sleeps.
// Async-signal-safe.
Duration boot_time();

struct AgentPage {
  static constexpr int kMostRanks = 1024;
  // No new epoch begins before this boot_time() has passed by a margin. Until then, the ranks may
  // write what others can see.
  std::atomic<int64_t> lease_until_ns = 0;
  // How often the guardian has killed the ranks because the lease had passed.
  std::atomic<int64_t> fenced = 0;
  // By local rank: one more than the steps that it has done. 0: it does not say.
  std::atomic<int64_t> progress[kMostRanks] = {};

  bool lease_passed() const { return boot_time().count() >= lease_until_ns.load(); }
};
static_assert(std::atomic<int64_t>::is_always_lock_free);

// For an agent that holds the rendezvous itself: it cannot lose touch with it.
inline constexpr Duration kEndlessLease = Duration::max();

}  // namespace lockstep::launcher
