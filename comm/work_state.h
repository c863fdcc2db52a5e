// WorkState: what the handles of one Work share.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/base/clock.h"

namespace lockstep::comm {

class Lane;

// Thread-safe.
class WorkState {
 public:
  // `limit`: of wait() without one. `give_up` ends the group when a wait reaches its limit. The lane may be gone already.
  WorkState(std::string what, Duration limit, std::weak_ptr<Lane> lane, std::function<void(const std::string&)> give_up);

  // Once. `error` is null when all went well.
  void finish(std::exception_ptr error);

  bool done() const { return done_.load(std::memory_order_acquire); }
  std::exception_ptr error() const;
  void wait();
  void wait(Duration limit);
  Duration duration() const;
  Duration exposed() const { return Duration(exposed_ns_.load(std::memory_order_relaxed)); }

  // How many threads are blocked in wait(); backends spin only when somebody is.
  const std::atomic<int>& waiters() const { return waiters_; }

 private:
  void wait_until_done(Duration limit, bool may_help);
  void rethrow() const;

  const std::string what_;
  const Duration limit_;
  const std::weak_ptr<Lane> lane_;
  const std::function<void(const std::string&)> give_up_;
  const Clock::time_point submitted_ = Clock::now();

  std::atomic<bool> done_ = false;
  std::atomic<int> waiters_ = 0;
  std::atomic<int64_t> exposed_ns_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable finished_;
  std::exception_ptr error_;            // guarded by mutex_; constant once done_
  Clock::time_point finished_at_ = {};  // likewise
};

}  // namespace lockstep::comm
