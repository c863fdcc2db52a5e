// How the ranks of a host find each other: rank 0 creates the memory and publishes its location in
// the store; the other ranks map it.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <new>
#include <random>
#include <set>
#include <sstream>
#include <utility>

#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "comm/engine/process_look.h"
#include "comm/ranks_text.h"
#include "comm/shm/group.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::shm {
namespace {

// The delay before the first look at missing ranks, and the longest time between two
// looks.
constexpr Duration kFirstLook = std::chrono::milliseconds(50);
constexpr Duration kLook = std::chrono::milliseconds(400);
// At how many unknown ranks, besides rank 0, one look asks the store.
constexpr int kAskedAtOnce = 8;

// Store keys: the location of rank 0's memory, and a sign that all ranks have mapped it.
constexpr const char* kMemory = "shm";
constexpr const char* kAllJoined = "all-joined";

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

EnvironmentError other_host(int rank, const std::string& host, int own_rank) {
  return EnvironmentError(str("[comm] backend 'shm' joins processes of one host, but rank ", rank,
                              " is on ", host, " and rank ", own_rank, " on ", host_name(),
                              " (or in another container); use 'ucx' or 'mpi' between hosts"));
}

}  // namespace

// One rank's waits while the group forms. Each wait checks now and then whether the missing ranks
// can still come.
class Group::Formation {
 public:
  Formation(Group& group, Store& store, const Limit& limit, const Kin& kin)
      : group_(group), store_(store), limit_(limit), kin_(kin) {
    for (int r = 0; r < group_.size(); ++r) keys_.push_back(str("attached-", r));
    // Do this first: from here on the others can see whether this process lives.
    store_.set(keys_[static_cast<size_t>(group_.rank())],
               str(::getpid(), " ", host_identity(), " ", host_name()));
  }

  std::string where_the_memory_is() {
    std::string where;
    in_short_waits([&](Duration wait) { where = store_.get(kMemory, wait); });
    return where;
  }
  // Announces that this rank has mapped the memory and filled in its part.
  void join() {
    group_.member(group_.rank()).joined.publish(1);
    if (group_.control().joined.fetch_add(1) + 1 == group_.size()) store_.set(kAllJoined, "");
  }
  // Waits in the store, which ends the wait early if it knows that a rank failed before it joined.
  void await_joined() {
    in_short_waits([&](Duration wait) { store_.wait({kAllJoined}, wait); });
  }
  // The last rank that no longer needs the keys removes them all.
  void leave_store() {
    if (group_.control().formed.fetch_add(1) + 1 < group_.size()) return;
    keys_.insert(keys_.end(), {kMemory, kAllJoined});
    try {
      store_.remove(keys_);
    } catch (const EnvironmentError& e) {  // the group has formed anyway
      log::debug("[comm] group '", group_.name_, "' leaves its keys in the store: ", e.what());
    }
  }

 private:
  // Calls wait_for(limit) until it no longer throws a TimeoutError.
  template <typename F>
  void in_short_waits(F wait_for) {
    for (Duration wait = kFirstLook;; wait = std::min(2 * wait, kLook)) {
      try {
        return wait_for(std::min(wait, limit_.remaining()));
      } catch (const TimeoutError&) {
        look();
      }
      // Look in memory: the rank that should have set the key may have failed.
      if (have_all_joined()) return;
    }
  }

  bool is_mapped() const { return group_.memory_.data() != nullptr; }
  bool has_joined(int r) const { return is_mapped() && group_.member(r).joined.reached(1); }
  bool have_all_joined() const {
    for (int r = 0; r < group_.size(); ++r)
      if (!has_joined(r)) return false;
    return true;
  }
  bool has_left(int r) const {
    return has_joined(r) &&
           group_.member(r).presence.load(std::memory_order_acquire) == Presence::left;
  }

  void look() {
    std::vector<int> missing;
    for (int r = 0; r < group_.size(); ++r)
      if (!has_joined(r)) missing.push_back(r);
    if (!is_mapped()) missing = {0};  // all ranks wait for rank 0's memory
    if (kin_.check) kin_.check(missing);
    std::string dead;
    const std::set<int> asked = next_to_ask_for();
    for (int r = 0; r < group_.size(); ++r) {
      const bool known = known_pid(r) != 0 || asked.contains(r);
      const int pid = r == group_.rank() || has_left(r) || !known ? 0 : pid_of(r);
      // A rank may have joined, met all others and left, all during this look.
      if (pid != 0 && !look_at_process(pid) && !has_left(r))
        dead += str(dead.empty() ? "" : ", ", "rank ", r, " (pid ", pid, ")");
    }
    if (!dead.empty())
      throw FromPeer<EnvironmentError>(
          str("[comm] shm: ", dead, " of ", group_.size(), " died while the group formed"));
    if (limit_.passed() || is_stopped_for_long(missing))
      throw FromPeer<TimeoutError>(str("[comm] shm: ", ranks_text(missing), " of ", group_.size(),
                                       " did not join in time (", limit_.reached(), ")",
                                       what_they_do(missing)));
    if (Clock::now() - start_ < say_after(said_) || missing.empty()) return;
    if (group_.rank() < missing.front() || missing.front() == 0)
      log::warn("[comm] group '", group_.name_, "' has been forming for ",
                seconds(say_after(said_)), " s: ", ranks_text(missing), " of ", group_.size(),
                missing.size() == 1 ? " has" : " have", " not joined", what_they_do(missing));
    ++said_;
  }

  // Returns the ranks with unknown processes for which this look asks the store: rank 0, and a few
  // others in turn. If every look of every rank asked for all of them, starting many ranks would
  // overload the store.
  std::set<int> next_to_ask_for() {
    std::vector<int> unknown;
    for (int r = 1; r < group_.size(); ++r)
      if (r != group_.rank() && known_pid(r) == 0) unknown.push_back(r);
    std::set<int> asked{0};
    for (int i = 0; i < kAskedAtOnce && !unknown.empty(); ++i)
      asked.insert(unknown[static_cast<size_t>(group_.rank() + asked_++) % unknown.size()]);
    return asked;
  }

  // Whether one of these ranks has been stopped for longer than the limit allows.
  bool is_stopped_for_long(const std::vector<int>& missing) {
    const auto now = Clock::now();
    for (const int r : missing) {
      const int pid = known_pid(r);
      const auto process = pid != 0 ? look_at_process(pid) : std::nullopt;
      if (!process || !process->stopped())
        stopped_since_.erase(r);
      else if (limit_.passed_for_stopped(now - stopped_since_.try_emplace(r, now).first->second))
        return true;
    }
    return false;
  }

  // "; rank 2 (pid 4711) is stopped", for the ranks whose processes are known.
  std::string what_they_do(const std::vector<int>& ranks) {
    std::vector<int> known, pids;
    for (const int r : ranks) {
      if (const int pid = pid_of(r)) {
        known.push_back(r);
        pids.push_back(pid);
      }
    }
    if (known.empty()) return "";
    std::string text;
    const auto doing = doings(pids);
    for (size_t i = 0; i < known.size(); ++i)
      text += str("; rank ", known[i], " (pid ", pids[i], ") ", doing[i]);
    return text;
  }

  // Returns 0 if the process is unknown or not known yet.
  int known_pid(int r) const {
    if (!kin_.pids.empty()) return kin_.pids[static_cast<size_t>(r)];
    if (has_joined(r)) return group_.member(r).pid;
    const auto found = pids_.find(r);
    return found != pids_.end() ? found->second : 0;
  }

  // Like known_pid(), but asks the store as well.
  int pid_of(int r) {
    if (const int known = known_pid(r)) return known;
    std::string text;
    try {
      text = store_.get(keys_[static_cast<size_t>(r)], Duration::zero());
    } catch (const TimeoutError&) {
      return 0;
    }
    int pid = 0;
    std::string identity, host;
    std::istringstream(text) >> pid >> identity >> host;
    if (identity != host_identity()) throw other_host(r, host, group_.rank());
    return pids_[r] = pid;
  }

  Group& group_;
  Store& store_;
  const Limit limit_;
  const Kin& kin_;
  const Clock::time_point start_ = Clock::now();
  std::vector<std::string> keys_;                   // by rank
  std::map<int, int> pids_;                         // by rank
  std::map<int, Clock::time_point> stopped_since_;  // by rank
  uint32_t said_ = 0;
  int asked_ = 0;  // ranks that the store was asked about; the next look continues there
};

Group::Group(Store& store, int rank, int size, const std::string& name, const Limit& limit,
             const Kin& kin)
    : name_(name), rank_(rank), size_(size), layout_(size), pidfds_(static_cast<size_t>(size), -1) {
  Formation formation(*this, store, limit, kin);
  if (rank == 0)
    create(store);
  else
    attach(formation);
  Member& me = member(rank_);
  me.pid = ::getpid();
  std::strncpy(me.host, host_name().c_str(), sizeof me.host - 1);
  CPU_ZERO(&me.cores);
  ::sched_getaffinity(0, sizeof me.cores, &me.cores);
  me.presence.store(Presence::here, std::memory_order_release);
  try {
    formation.join();
    formation.await_joined();
    watch_peers();
    formation.leave_store();
  } catch (...) {
    // The others see the reason themselves, or see that this rank has left.
    me.presence.store(Presence::left, std::memory_order_release);
    stop_watching();
    throw;
  }
  memory_.close_fd();
  own_cores_ = size_ <= usable_cores();
  enter_process();
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
  store.set(kMemory, str(::getpid(), " ", memory_.fd(), " ", control->cookie, " ", host_identity(),
                         " ", host_name()));
}

void Group::attach(Formation& formation) {
  int pid = 0, fd = 0;
  uint64_t cookie = 0;
  std::string identity, host;
  std::istringstream(formation.where_the_memory_is()) >> pid >> fd >> cookie >> identity >> host;
  if (identity != host_identity()) throw other_host(0, host, rank_);
  try {
    memory_ = Memory::open(pid, fd, layout_.bytes(), 0, false);
  } catch (const EnvironmentError& e) {
    std::rethrow_exception(
        reworded(e, str("[comm] shm: rank ", rank_, " cannot join the group of rank 0 (pid ", pid,
                        " on ", host, "): ", e.what())));
  }
  if (control().cookie != cookie)
    throw FromPeer<EnvironmentError>(
        str("[comm] rank 0 (pid ", pid, " on ", host, ") has ended while rank ", rank_, " joined"));
}

void Group::watch_peers() {
  for (int r = 0; r < size_; ++r) {
    const int pid = member(r).pid;
    if (pid == ::getpid()) continue;
    const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    const int error = fd < 0 ? errno : 0;
    // That rank has finished with the group and exited, so there is nothing to watch.
    if (error == ESRCH && member(r).presence.load(std::memory_order_acquire) == Presence::left)
      continue;
    if (error == ESRCH)
      throw FromPeer<EnvironmentError>(str("[comm] ", who(r), " died while the group formed"));
    if (fd < 0)
      throw EnvironmentError(
          str("[comm] cannot watch ", who(r), ": pidfd_open: ", errno_text(error)));
    pidfds_[static_cast<size_t>(r)] = fd;
  }
}

void Group::stop_watching() {
  for (int& fd : pidfds_)
    if (fd >= 0) ::close(std::exchange(fd, -1));
}

}  // namespace lockstep::comm::shm
