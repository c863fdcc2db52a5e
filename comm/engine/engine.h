// Engine: runs a group's calls on its backend – in order, with limits, and with the first failure
// ending the group. What ProcessGroup keeps behind its interface.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/engine/flight_recorder.h"
#include "comm/engine/lane.h"
#include "comm/engine/queued_calls.h"
#include "comm/engine/watchdog.h"
#include "comm/engine/work_state.h"
#include "comm/work.h"
#include "core/base/mutex.h"

namespace lockstep::comm {

// Thread-safe.
class Engine : public std::enable_shared_from_this<Engine> {
 public:
  Engine(std::unique_ptr<Backend> backend, const GroupOptions& options);

  Backend& backend() { return *backend_; }
  const GroupOptions& options() const { return options_; }
  const FlightRecorder& recorder() const { return recorder_; }

  // What runs for a call: its fingerprint is complete, with group and sequence. The call is done
  // once the event is that this returns.
  using Body = std::function<Event(const Fingerprint&, const WorkState&)>;

  // These give the call its number in its lane (1, 2, …) and queue it, in one step: calls run in
  // the order of their numbers, whatever threads they come from, and one that throws here has taken
  // no number.
  //
  // `tensors` stay alive until the call is done.
  Work submit(Call call, const ReduceTree* tree, std::vector<Tensor> tensors);
  // Runs `body` in the lane of collectives, in order with them; it may use the backend.
  Work submit_body(const Fingerprint& fingerprint, Body body);
  // A call that is done in place, at world size 1.
  Work done_here(Op op, int peer, Fingerprint fingerprint, const std::function<void()>& body);

  // From here on, the end of one ends the other for the same reason. At most once for each.
  static void couple(const std::shared_ptr<Engine>& a, const std::shared_ptr<Engine>& b);
  // Ends the group; the first one counts. `by_peer`: another rank is the cause.
  void abort(const std::string& reason, bool by_peer = false);
  // Withdraws receives whose message has not come, and waits for all else that was submitted: other
  // ranks count on this one's part. The engine accepts nothing after it.
  void close();

 private:
  // Why the group has ended; an empty reason: it has not.
  struct End {
    std::string reason;
    bool by_peer = false;
  };
  End ended() const;

  using LaneKey = std::pair<Op, int>;  // (send|recv, peer), or (barrier, -1) for all collectives
  Work enqueue(Op op, int peer, Fingerprint fingerprint, bool large, const Event& ready, Body body);
  // Drops `body`, and the tensors that it holds, before the work is answered: what a waiter lets go
  // then is gone. `ready` as in Call.
  void run(const std::shared_ptr<WorkState>& work, const Fingerprint& fingerprint, uint64_t entry,
           const Event& ready, Body body);
  // The current exception, with group, rank and call in front of its message; ends the group,
  // unless the call was withdrawn. It comes from a peer if the group's end does.
  std::exception_ptr failure_of(const WorkState& work);
  static std::exception_ptr failure_of_ended(const End& end);
  // Looks after a call that has been queued on a device: `end` is where it is done.
  void watch(const std::shared_ptr<WorkState>& work, uint64_t entry, const Event& ready,
             const Event& end);
  // Whether such a call may still come to its end.
  Watchdog::Verdict look_at(const QueuedCall& call, const Event& ready, const Limit& limit);
  std::string where(const Fingerprint& fingerprint) const;
  void log_calls(const FlightRecorder::Excerpt& calls) const;

  const std::unique_ptr<Backend> backend_;
  const GroupOptions options_;
  const Patience patience_;
  const uint64_t group_hash_;
  FlightRecorder recorder_;

  mutable Mutex mutex_;
  std::map<LaneKey, std::shared_ptr<Lane>> lanes_ LOCKSTEP_GUARDED_BY(mutex_);
  // Of the last call.
  std::map<LaneKey, uint64_t> sequences_ LOCKSTEP_GUARDED_BY(mutex_);
  End ended_ LOCKSTEP_GUARDED_BY(mutex_);
  std::weak_ptr<Engine> coupled_ LOCKSTEP_GUARDED_BY(mutex_);
  // After what its checks use.
  Watchdog watchdog_;
};

}  // namespace lockstep::comm
