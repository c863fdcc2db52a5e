#include "comm/shm/group.h"

#include <algorithm>
#include <cstring>

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include "comm/shm/watch.h"
#include "core/base/error.h"

namespace lockstep::comm::shm {
namespace {

// How often a sleeping rank checks whether the rank that it waits for still lives.
constexpr Duration kLook = std::chrono::milliseconds(50);

// How long to spin before sleeping. While a caller waits, spin about as long as a sleep and a
// wake-up take. In the background, spin much less, because the core has other work.
constexpr Duration kSpinAwaited = std::chrono::microseconds(200);
constexpr Duration kSpinBehind = std::chrono::microseconds(5);
// How long a spinning rank keeps its core. After that it yields, as the awaited rank may need the
// core. It does not yield earlier: another program could take the core for milliseconds.
constexpr Duration kKeepCore = std::chrono::microseconds(20);

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Group::~Group() {
  leave_process();
  member(rank_).presence.store(Presence::left, std::memory_order_release);
  stop_watching();
}

// Each rank may be bound to a core of its own, so take the union over all ranks.
int Group::usable_cores() {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int r = 0; r < size_; ++r) CPU_OR(&all, &all, &member(r).cores);
  return CPU_COUNT(&all);
}

std::string Group::who(int rank) {
  return str("rank ", rank, " (pid ", member(rank).pid, " on ", member(rank).host, ")");
}

bool Group::spin(const Word& word, uint32_t target, const Call& call) const {
  const auto start = Clock::now();
  const auto end = start + (call.awaited() ? kSpinAwaited : kSpinBehind);
  const auto yielding = own_cores_ ? start + kKeepCore : start;
  for (auto now = start; now < end; now = Clock::now()) {
    for (int i = 0; i < 50 && own_cores_; ++i) {
      if (word.reached(target)) return true;
      pause_core();
    }
    if (now >= yielding) ::sched_yield();
    if (word.reached(target)) return true;
  }
  return false;
}

void Group::arrive() {
  std::atomic<bool>& said = member(rank_).said_stopped;
  if (said.load(std::memory_order_relaxed)) said.store(false, std::memory_order_relaxed);
}

void Group::await(Word& word, uint32_t target, int peer, const Call& call) {
  if (word.reached(target) || spin(word, target, call)) return;
  Watch watch(*this, peer, call);
  while (!word.reached(target)) {
    check_alive(word, target, peer);
    if (call.limit.passed()) throw late(peer, call);
    watch.look();
    word.sleep(target, std::min(kLook, call.limit.nap()));
  }
}

bool Group::is_dead(int rank) const {
  pollfd poll{pidfds_[static_cast<size_t>(rank)], POLLIN, 0};
  return poll.fd >= 0 && ::poll(&poll, 1, 0) > 0;
}

void Group::check_alive(const Word& word, uint32_t target, int peer) {
  const bool dead = is_dead(peer);
  const bool left = member(peer).presence.load(std::memory_order_acquire) == Presence::left;
  // What the rank did before it went still counts.
  if (word.reached(target)) return;
  check_not_aborted();
  if (left) throw FromPeer<EnvironmentError>(str(who(peer), " has left the group"));
  if (dead) throw FromPeer<EnvironmentError>(str(who(peer), " died"));
}

void Group::check_running() {
  check_not_aborted();
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    // Whoever has left has done its part of all calls that others watch.
    if (member(r).presence.load(std::memory_order_acquire) == Presence::left) continue;
    if (is_dead(r)) throw FromPeer<EnvironmentError>(str(who(r), " died"));
  }
}

void Group::check_there(const std::vector<int>& ranks) {
  check_not_aborted();
  for (const int rank : ranks) {
    if (member(rank).presence.load(std::memory_order_acquire) == Presence::left)
      throw FromPeer<EnvironmentError>(str(who(rank), " has left group '", name_, "'"));
    if (is_dead(rank))
      throw FromPeer<EnvironmentError>(str(who(rank), " of group '", name_, "' died"));
  }
}

void Group::check_not_aborted() {
  if (control().aborted.load(std::memory_order_acquire))
    throw FromPeer<EnvironmentError>(control().reason);
}

void Group::abort(const std::string& reason) noexcept {
  Control& c = control();
  if (c.aborting.exchange(1) == 0) {
    std::strncpy(c.reason, reason.c_str(), sizeof c.reason - 1);
    c.aborted.store(1, std::memory_order_release);
  }
  // A rank that falls asleep at this moment wakes by itself soon.
  const auto wake = [](Word& word) {
    if (word.sleepers.load(std::memory_order_seq_cst) > 0) word.wake();
  };
  for (int r = 0; r < size_; ++r) {
    wake(member(r).staged);
    wake(member(r).read);
    for (int to = 0; to < size_; ++to)
      for (Word* word : {&channel(r, to).posted, &channel(r, to).ready, &channel(r, to).filled,
                         &channel(r, to).drained})
        wake(*word);
  }
}

}  // namespace lockstep::comm::shm
