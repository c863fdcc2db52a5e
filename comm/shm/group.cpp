#include "comm/shm/group.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>
#include <random>
#include <sstream>

#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::shm {
namespace {

// How often a sleeper looks whether the awaited rank still lives.
constexpr Duration kLook = std::chrono::milliseconds(50);
// And, after as long a wait, whether it is stopped.
constexpr Duration kLookForStopped = std::chrono::seconds(1);

// How long to look for a change before sleeping: about what a sleep and a wake-up cost, or, where the thread computes behind
// somebody's back, much less, since the core has better to do.
constexpr Duration kSpinAwaited = std::chrono::microseconds(200);
constexpr Duration kSpinBehind = std::chrono::microseconds(5);
// How long a rank that has a core keeps it while it looks. Whoever else wants that core, and it may be a stranger, gets it for
// milliseconds; longer than this, the awaited rank may be the one.
constexpr Duration kKeepCore = std::chrono::microseconds(20);

// The kernel and the process namespace: ranks that share both can open each other's memory.
std::string host_identity() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  struct stat ns {};
  ::stat("/proc/self/ns/pid", &ns);
  return str(boot, "/", ns.st_ino);
}

std::string host_name() {
  char name[64] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Group::Group(Store& store, int rank, int size, const GroupOptions& options)
    : name_(options.name), rank_(rank), size_(size), layout_(size), pidfds_(static_cast<size_t>(size), -1) {
  const Deadline deadline = Deadline::after(options.timeout);
  if (rank == 0)
    create(store);
  else
    attach(store, deadline);
  Member& me = member(rank_);
  me.pid = ::getpid();
  std::strncpy(me.host, host_name().c_str(), sizeof me.host - 1);
  CPU_ZERO(&me.cores);
  ::sched_getaffinity(0, sizeof me.cores, &me.cores);
  me.presence.store(Presence::here, std::memory_order_release);
  await_all_attached(store, deadline);
  memory_.close_fd();
  watch_peers();
  own_cores_ = size_ <= usable_cores();
}

Group::~Group() {
  member(rank_).presence.store(Presence::left, std::memory_order_release);
  for (const int fd : pidfds_)
    if (fd >= 0) ::close(fd);
}

void Group::create(Store& store) {
  memory_ = Memory::create(layout_.bytes());
  std::random_device random;
  auto* control = new (memory_.data()) Control;
  control->cookie = (static_cast<uint64_t>(random()) << 32) | random();
  for (int r = 0; r < size_; ++r) {
    new (&member(r)) Member;
    for (int to = 0; to < size_; ++to) new (&channel(r, to)) Channel;
  }
  store.set("shm", str(::getpid(), " ", memory_.fd(), " ", control->cookie, " ", host_identity(), " ", host_name()));
}

std::string Group::wait_for_rank_0(Store& store, const Deadline& deadline) const {
  try {
    return store.get("shm", deadline.remaining());
  } catch (const TimeoutError& e) {
    throw FromPeer<TimeoutError>(str("[comm] shm: rank 0 of ", size_, " did not join in time: ", e.what()));
  }
}

void Group::attach(Store& store, const Deadline& deadline) {
  int pid = 0, fd = 0;
  uint64_t cookie = 0;
  std::string identity, host;
  std::istringstream(wait_for_rank_0(store, deadline)) >> pid >> fd >> cookie >> identity >> host;
  if (identity != host_identity())
    throw EnvironmentError(str("[comm] backend 'shm' joins processes of one host, but rank 0 is on ", host, " and rank ", rank_, " on ",
                               host_name(), " (or in another container); use 'mpi' between hosts"));
  memory_ = Memory::open(pid, fd, layout_.bytes(), 0, false);
  if (control().cookie != cookie)
    throw FromPeer<EnvironmentError>(str("[comm] rank 0 (pid ", pid, " on ", host, ") has ended while rank ", rank_, " joined"));
}

// In the store, which ends the wait where a rank has failed before it came.
void Group::await_all_attached(Store& store, const Deadline& deadline) {
  std::vector<std::string> keys;
  for (int r = 0; r < size_; ++r) keys.push_back(str("attached-", r));
  store.set(keys[static_cast<size_t>(rank_)], "");
  try {
    store.wait(keys, deadline.remaining());
  } catch (const TimeoutError&) {
    std::vector<int> missing;
    for (int r = 0; r < size_; ++r)
      if (member(r).presence.load(std::memory_order_acquire) == Presence::absent) missing.push_back(r);
    throw FromPeer<TimeoutError>(str("[comm] shm: ", ranks_text(missing), " of ", size_, " did not join in time"));
  }
}

void Group::watch_peers() {
  for (int r = 0; r < size_; ++r) {
    const int pid = member(r).pid;
    if (pid == ::getpid()) continue;
    const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    const int error = fd < 0 ? errno : 0;
    // Done with the group and gone already: nobody to watch.
    if (error == ESRCH && member(r).presence.load(std::memory_order_acquire) == Presence::left) continue;
    if (error == ESRCH) throw FromPeer<EnvironmentError>(str("[comm] ", who(r), " died while the group formed"));
    if (fd < 0) throw EnvironmentError(str("[comm] cannot watch ", who(r), ": pidfd_open: ", errno_text(error)));
    pidfds_[static_cast<size_t>(r)] = fd;
  }
}

// Each rank may be bound to a core of its own, so only all together know.
int Group::usable_cores() {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int r = 0; r < size_; ++r) CPU_OR(&all, &all, &member(r).cores);
  return CPU_COUNT(&all);
}

std::string Group::who(int rank) { return str("rank ", rank, " (pid ", member(rank).pid, " on ", member(rank).host, ")"); }

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
  Deadline stopped = Deadline::after(kLookForStopped);
  while (!word.reached(target)) {
    check_alive(word, target, peer);
    if (call.limit.passed()) throw late(peer, call);
    if (stopped.passed()) {
      warn_if_stopped(peer, call);
      stopped = Deadline::after(kLookForStopped);
    }
    word.sleep(target, std::min(kLook, call.limit.nap()));
  }
}

void Group::check_alive(const Word& word, uint32_t target, int peer) {
  pollfd poll{pidfds_[static_cast<size_t>(peer)], POLLIN, 0};
  const bool dead = poll.fd >= 0 && ::poll(&poll, 1, 0) > 0;
  const bool left = member(peer).presence.load(std::memory_order_acquire) == Presence::left;
  // What it did before it went still counts.
  if (word.reached(target)) return;
  check_not_aborted();
  if (left) throw FromPeer<EnvironmentError>(str(who(peer), " has left the group"));
  if (dead) throw FromPeer<EnvironmentError>(str(who(peer), " died"));
}

// " is stopped (SIGSTOP) and", or nothing: a stopped process is no mystery.
std::string Group::state_of(int rank) {
  std::string stat;
  std::getline(std::ifstream(str("/proc/", member(rank).pid, "/stat")), stat);
  const size_t at = stat.rfind(')');
  if (at == std::string::npos || at + 2 >= stat.size()) return "";
  const char state = stat[at + 2];
  return state == 'T' || state == 't' ? " is stopped and" : "";
}

// The last collective of a rank that has not arrived at `call`.
std::string Group::last_call(int rank, const Call& call) {
  const auto& notices = member(rank).notices;
  const bool even_is_last =
      point_to_point(call.op) ? notices[0].call.sequence > notices[1].call.sequence : call.fingerprint.sequence % 2 == 1;
  const Notice& before = notices[even_is_last ? 0 : 1];
  return before.call.sequence == 0 ? "it has made no call yet" : "its last call was " + describe(before.call);
}

void Group::warn_if_stopped(int peer, const Call& call) {
  if (state_of(peer).empty()) return;
  if (member(peer).said_stopped.exchange(true, std::memory_order_relaxed)) return;
  const uint64_t sequence = call.fingerprint.sequence;
  const bool arrived = !point_to_point(call.op) && member(peer).notices[sequence % 2].call.sequence >= sequence;
  log::warn("[comm] ", who(peer), " is stopped and holds up ", describe(call.fingerprint), " in group '", name_, "'",
            arrived ? ", in which it takes part" : "; " + last_call(peer, call), "; 'kill -CONT ", member(peer).pid,
            "' lets it go on, or it counts as missing at the group's time limit");
}

FromPeer<TimeoutError> Group::late(int peer, const Call& call) {
  std::string text = str(call.limit.reached(), ":", point_to_point(call.op) ? " waiting for" : "");
  bool any = false;
  for (int r = 0; r < size_; ++r) {
    const Notice& notice = member(r).notices[call.fingerprint.sequence % 2];
    const bool arrived = point_to_point(call.op) ? r != peer : notice.call.sequence >= call.fingerprint.sequence;
    if (arrived || r == rank_) continue;
    text += str(any ? "; " : " ", who(r), state_of(r), " has not arrived, ", last_call(r, call));
    any = true;
  }
  if (!any) text += str(" ", who(peer), state_of(peer), " has arrived, but does not go on");
  return FromPeer<TimeoutError>(text);
}

void Group::check_not_aborted() {
  if (control().aborted.load(std::memory_order_acquire)) throw FromPeer<EnvironmentError>(control().reason);
}

void Group::abort(const std::string& reason) noexcept {
  Control& c = control();
  if (c.aborting.exchange(1) == 0) {
    std::strncpy(c.reason, reason.c_str(), sizeof c.reason - 1);
    c.aborted.store(1, std::memory_order_release);
  }
  // Who falls asleep at this very moment looks again by itself soon.
  const auto wake = [](Word& word) {
    if (word.sleepers.load(std::memory_order_seq_cst) > 0) word.wake();
  };
  for (int r = 0; r < size_; ++r) {
    wake(member(r).staged);
    wake(member(r).read);
    for (int to = 0; to < size_; ++to)
      for (Word* word : {&channel(r, to).posted, &channel(r, to).ready, &channel(r, to).filled, &channel(r, to).drained}) wake(*word);
  }
}

}  // namespace lockstep::comm::shm
