// WorkState: what the handles of one Work share.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "comm/engine/limit.h"
#include "core/base/mutex.h"

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

  // Once. `error` is null when all went well.
  void finish(std::exception_ptr error);

  bool done() const { return done_.load(std::memory_order_acquire); }
  std::exception_ptr error() const;
  void wait();
  void wait(Duration limit);
  Duration duration() const;
  Duration exposed() const { return Duration(exposed_ns_.load(std::memory_order_relaxed)); }

  // The call in words. Holds as long as this state.
  const std::string& what() const { return what_; }
  // Of the call, which begins now; holds as long as its lane.
  Limit limit() const;

  // Whether somebody has ended the call before its limit: by a wait that gave up, or by destroying
  // the group.
  bool given_up() const;
  bool withdrawn() const;

  // How many threads are blocked in wait(); backends spin only when somebody is.
  const std::atomic<int>& waiters() const { return waiters_; }

 private:
  void wait_until_done(Duration limit, bool may_help);
  // Throws, unless the call comes to a good end at this last moment.
  void give_up(Duration waited);
  void rethrow() const;

  const std::string what_;
  const uint64_t number_;
  const Patience patience_;
  const std::weak_ptr<Lane> lane_;
  const std::function<void(const std::string&)> end_group_;
  const Clock::time_point submitted_ = Clock::now();

  std::atomic<bool> done_ = false;
  std::atomic<int> waiters_ = 0;
  std::atomic<int64_t> exposed_ns_ = 0;
  mutable Mutex mutex_;
  Condition finished_;
  // Constant once done_.
  std::exception_ptr error_ LOCKSTEP_GUARDED_BY(mutex_);
  Clock::time_point finished_at_ LOCKSTEP_GUARDED_BY(mutex_) = {};
};

}  // namespace lockstep::comm
