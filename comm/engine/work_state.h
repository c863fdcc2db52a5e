// WorkState: what the handles of one Work share.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/engine/limit.h"
#include "core/base/mutex.h"
#include "core/device/queue.h"

namespace lockstep::comm {

class Lane;

// Thread-safe.
class WorkState {
 public:
  // `what` and `number`: the call, and its place in the lane, which may be gone already.
  // `patience`: the call's, and that of wait() without a limit. `end_group`: for a wait that
  // reached its limit, where the call does not end either.
  WorkState(std::string what, uint64_t number, const Patience& patience, std::weak_ptr<Lane> lane,
            std::function<void(const std::string&)> end_group);

  // All ranks have come to the call, and `end` says when it is done on the device. At most once,
  // before finish().
  void queued(const Event& end);
  // Once. `error` is null when all went well.
  void finish(std::exception_ptr error);

  bool done() const { return done_.load(std::memory_order_acquire); }
  // Queued or done: nothing is left for wait() to wait for.
  bool answered() const { return answered_.load(std::memory_order_acquire); }
  std::exception_ptr error() const;
  void wait();
  void wait(Duration limit);
  void synchronize();
  Duration duration() const;
  Duration exposed() const {
    return Duration(exposed_ns_.load(std::memory_order_relaxed)) + exposed_on_queue();
  }
  Duration exposed_on_queue() const;
  bool waits_on_queue() const;

  // The call in words. Holds as long as this state.
  const std::string& what() const { return what_; }
  // Of the call, which begins at the first of these; holds as long as its lane.
  Limit limit() const;

  // The lane of the call; null if it is gone.
  const Lane* lane() const { return lane_.lock().get(); }

  // Whether somebody has ended the call before its limit: by a wait that gave up, or by destroying
  // the group.
  bool given_up() const;
  bool withdrawn() const;

  // How many threads are blocked in wait(); backends spin only when somebody is.
  const std::atomic<int>& waiters() const { return waiters_; }

 private:
  // The first blocks until the call is answered, the second until it is done.
  void wait_until_answered(Duration limit, bool may_help);
  void wait_until_done(Duration limit);
  template <typename Ready>
  void wait_for(const Deadline& deadline, const Ready& ready) LOCKSTEP_REQUIRES(mutex_);
  // After an answer: throws the failure, or makes this thread's current queue wait for the end.
  void take_result();
  // Throws, unless the call comes to a good end at this last moment.
  void give_up(Duration waited);
  void rethrow() const;

  const std::string what_;
  const uint64_t number_;
  const Patience patience_;
  const std::weak_ptr<Lane> lane_;
  const std::function<void(const std::string&)> end_group_;
  const Clock::time_point submitted_ = Clock::now();

  std::atomic<bool> answered_ = false;
  std::atomic<bool> done_ = false;
  std::atomic<int> waiters_ = 0;
  std::atomic<int64_t> exposed_ns_ = 0;
  mutable Mutex mutex_;
  Condition changed_;
  // Constant once done_.
  std::exception_ptr error_ LOCKSTEP_GUARDED_BY(mutex_);
  Clock::time_point finished_at_ LOCKSTEP_GUARDED_BY(mutex_) = {};
  mutable std::optional<Deadline> deadline_ LOCKSTEP_GUARDED_BY(mutex_);  // of the call
  // Where the call ends on a device. Constant once answered_.
  Event end_ LOCKSTEP_GUARDED_BY(mutex_);
  // Where queues began to wait for that end, and where they went on.
  std::vector<std::pair<Event, Event>> waits_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm
