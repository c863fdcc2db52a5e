// Group: the ranks of one host around their shared memory. They find each other, wait for each
// other, and notice when one has died, left or aborted.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/peer_failure.h"
#include "comm/shm/layout.h"
#include "comm/shm/memory.h"
#include "comm/store.h"

namespace lockstep::comm::shm {

// What is known about the ranks of a new group before they join, if they are ranks of another group
// already.
struct Kin {
  std::vector<int> pids;  // by rank; empty: unknown
  // Throws if missing ranks of the new group cannot come.
  std::function<void(const std::vector<int>& missing)> check;
};

// Thread-safe, except for the data behind the pointers, which the callers' protocol protects.
class Group {
 public:
  Group(Store& store, int rank, int size, const std::string& name, const Limit& limit,
        const Kin& kin);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  Member& member(int rank) { return *at<Member>(layout_.member(rank)); }
  Channel& channel(int from, int to) { return *at<Channel>(layout_.channel(from, to)); }
  std::byte* message(int from, int to, uint32_t piece) {
    return memory_.data() + layout_.message(from, to, piece % kMessageSlots);
  }
  std::byte* stage(int rank, uint64_t step) {
    return memory_.data() + layout_.stage(rank, static_cast<uint32_t>(step % slots()));
  }
  std::byte* result(int rank, uint64_t step) {
    return memory_.data() + layout_.result(rank, static_cast<uint32_t>(step % slots()));
  }

  // Call when this rank begins a call: if it was stopped, it has continued.
  void arrive();

  // Whether there are at least as many cores as ranks. Equal on all ranks.
  bool own_cores() const { return own_cores_; }
  // How many slots a rank uses in turn.
  uint32_t slots() const { return own_cores_ ? kSlots : kSlotsOnSharedCores; }

  // Waits until `word`, which `peer` publishes, has reached `target`. Spins for a short time, then
  // sleeps. Throws as Backend::execute() does.
  void await(Word& word, uint32_t target, int peer, const Call& call);

  void abort(const std::string& reason) noexcept;
  // Throws the reason if the group has ended.
  void check_not_aborted();
  // Throws if the group has ended, or if any rank has died.
  void check_running();
  // Throws if the group has ended, or if one of these ranks has died or left. Such ranks join no
  // other group either.
  void check_there(const std::vector<int>& ranks);

  // Shows all ranks which call this rank waits in, until the next call (see Member::waits_in).
  void show_waiting(const std::string& call);

 private:
  template <typename T>
  T* at(size_t offset) {
    return reinterpret_cast<T*>(memory_.data() + offset);
  }
  Control& control() { return *at<Control>(0); }
  // formation.cpp
  class Formation;
  void create(Store& store);
  void attach(Formation& formation);
  void watch_peers();
  void stop_watching();
  int usable_cores();
  bool spin(const Word& word, uint32_t target, const Call& call) const;
  bool is_dead(int rank) const;
  void check_alive(const Word& word, uint32_t target, int peer);
  std::string who(int rank);

  // reports.cpp
  class Watch;
  // Between these two calls, this group's ranks can see what any thread of this process waits
  // in.
  void enter_process();
  void leave_process();
  // Warn once for all waiting ranks: that the awaited rank is stopped (SIGSTOP, Ctrl-Z, a
  // debugger), or that some ranks are late.
  void warn_of_stopped(int peer, const Call& call);
  void warn_of_missing(int peer, const Call& call, Duration waited);
  FromPeer<TimeoutError> late(int peer, const Call& call);
  bool has_arrived(int rank, int peer, const Call& call);
  std::string missing_text(int peer, const Call& call);
  std::string last_call(int rank, const Call& call);
  std::string waits_in(int rank);

  const std::string name_;
  const int rank_;
  const int size_;
  const Layout layout_;
  Memory memory_;
  std::vector<int> pidfds_;  // by rank; -1 for this process
  bool own_cores_ = false;
};

}  // namespace lockstep::comm::shm
