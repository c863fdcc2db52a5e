// Hub: where the threads of a local group meet. All ranks share one object.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/engine/backend.h"
#include "core/base/mutex.h"

namespace lockstep::comm::local {

// Thread-safe. The first call that fails ends the group, in one step under the lock. From then on
// no rank starts to use another rank's tensors, and a failing call returns only when no rank uses
// them any more.
class Hub {
 public:
  // `name`: the name of the group, for messages.
  explicit Hub(int size, std::string name = "");

  // A waiter in join() calls this now and then. It throws if the missing ranks cannot come.
  using Check = std::function<void(const std::vector<int>& missing)>;
  // Returns the hub named `key`, the same one for each of the `size` ranks that ask. Waits for all
  // of them; then the key is free again.
  static std::shared_ptr<Hub> join(const std::string& key, int rank, int size,
                                   const std::string& name, const Limit& limit, const Check& check);

  int size() const { return size_; }

  // Runs a collective. `move` runs when all ranks have arrived, gets the calls of all ranks, and
  // must not wait. Ranks use each other's tensors only inside `move`. So no rank returns, not even
  // with an error, while another one is in it. If `move` throws, the group ends.
  void collective(int rank, const Call& call,
                  const std::function<void(const std::vector<Call>& calls)>& move);
  // Matches a send() with the recv() of the peer; the receiver copies.
  void message(int rank, const Call& call);

  void abort(const std::string& reason);
  void leave(int rank);
  // Throws if the group has ended, or if one of these ranks has left it. Such ranks join no other
  // group either.
  void check_there(const std::vector<int>& ranks);

 private:
  struct Member {
    uint64_t joined = 0, arrived = 0, moved = 0;  // number of collectives
    bool moving = false, left = false;
    uint32_t said = 0;  // how often it was reported as holding up others
  };
  struct Slot {                               // for one ordered pair of ranks
    uint64_t sends = 0, recvs = 0, done = 0;  // number of messages
    bool copying = false;
    Call send, recv;
  };

  // Waits until `present(rank)` holds for all ranks. Errors name the missing ranks, as does the log
  // after some seconds. `what` is the waiting call ("all_reduce #12 (…) …"), `doing` what it waits
  // for ("arrived").
  void await(const Limit& limit, std::string_view what, std::string_view doing,
             const std::function<bool(int)>& present, const Check& check = {})
      LOCKSTEP_REQUIRES(mutex_);
  std::string last_call(int rank) const LOCKSTEP_REQUIRES(mutex_);
  std::string missing_text(const std::vector<int>& missing, std::string_view doing) const
      LOCKSTEP_REQUIRES(mutex_);
  void say_missing(const std::vector<int>& missing, std::string_view what, std::string_view doing,
                   Duration waited) LOCKSTEP_REQUIRES(mutex_);
  // Ends the group with the current exception of `call`, unless it has ended already.
  void end_with(const Call& call) LOCKSTEP_REQUIRES(mutex_);
  bool ended() const LOCKSTEP_REQUIRES(mutex_) { return !aborted_.empty(); }

  const int size_;
  const std::string name_;
  Mutex mutex_;
  Condition changed_;
  std::vector<Member> members_ LOCKSTEP_GUARDED_BY(mutex_);
  std::vector<Call> calls_ LOCKSTEP_GUARDED_BY(mutex_);  // by rank
  std::vector<Slot> slots_ LOCKSTEP_GUARDED_BY(mutex_);  // by sender · size + receiver
  std::string aborted_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm::local
