// Hub: where the threads of a local group meet. One object for all ranks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/engine/backend.h"
#include "core/base/mutex.h"

namespace lockstep::comm::local {

// Thread-safe. The first call that fails ends the group, in one step under the lock: from then on
// nobody begins to touch another rank's tensors, and a failing call returns only when nobody is at
// it any more.
class Hub {
 public:
  // `name`: the group's, for messages.
  explicit Hub(int size, std::string name = "");

  // What a waiter in join() asks now and then: throws where the missing ranks will not come.
  using Check = std::function<void(const std::vector<int>& missing)>;
  // The hub under `key`, the same one for each of the `size` ranks that ask; forgotten when all
  // have. Waits for them.
  static std::shared_ptr<Hub> join(const std::string& key, int rank, int size,
                                   const std::string& name, const Limit& limit, const Check& check);

  int size() const { return size_; }

  // The two halves of every collective. `move` runs between them, with all ranks' calls, and must
  // not wait for anything. Peers touch a rank's tensors only inside `move`, so nobody returns – not
  // even with an error – while anyone is in it. An exception that leaves `move` ends the group.
  void collective(int rank, const Call& call,
                  const std::function<void(const std::vector<Call>& calls)>& move);
  // A send() and the recv() that it meets; the receiver copies.
  void message(int rank, const Call& call);

  void abort(const std::string& reason);
  void leave(int rank);
  // Throws where the group has ended, or where one of these ranks has left it. Such ranks come to
  // no other group either.
  void check_there(const std::vector<int>& ranks);

 private:
  struct Member {
    uint64_t joined = 0, arrived = 0, moved = 0;  // collectives so far
    bool moving = false, left = false;
    uint32_t said = 0;  // how often it was said that it holds up the others
  };
  struct Slot {                               // of one ordered pair of ranks
    uint64_t sends = 0, recvs = 0, done = 0;  // messages so far
    bool copying = false;
    Call send, recv;
  };

  // Waits until `present(rank)` holds for all ranks; the missing ones are named in the errors and,
  // within seconds, in the log. `what` waits for them to have `doing`: "all_reduce #12 (…) …",
  // "arrived".
  void await(const Limit& limit, std::string_view what, std::string_view doing,
             const std::function<bool(int)>& present, const Check& check = {})
      LOCKSTEP_REQUIRES(mutex_);
  std::string last_call(int rank) const LOCKSTEP_REQUIRES(mutex_);
  std::string missing_text(const std::vector<int>& missing, std::string_view doing) const
      LOCKSTEP_REQUIRES(mutex_);
  void say_missing(const std::vector<int>& missing, std::string_view what, std::string_view doing,
                   Duration waited) LOCKSTEP_REQUIRES(mutex_);
  // With the current exception, of `call`, as the reason, unless there is one.
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
