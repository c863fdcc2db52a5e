// Mutex, MutexLock, MutexUnlock and Condition: std::mutex, its locks and std::condition_variable,
// with the annotations that clang's thread-safety analysis reads. They cost what those cost.
//
// Members guarded by a mutex are marked LOCKSTEP_GUARDED_BY, and functions called with the lock
// held are marked LOCKSTEP_REQUIRES. `scripts/lint threads` then finds every access without the
// lock. With other compilers the annotations are empty.
#pragma once

#include <condition_variable>
#include <mutex>

#include "core/base/clock.h"

#if defined(__clang__)
#define LOCKSTEP_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define LOCKSTEP_THREAD_ATTRIBUTE(x)
#endif

// After a member or a variable: read and written only while `mutex` is held.
#define LOCKSTEP_GUARDED_BY(mutex) LOCKSTEP_THREAD_ATTRIBUTE(guarded_by(mutex))
// After a function's or a lambda's parameters: the caller holds `mutex`, and still does afterwards.
#define LOCKSTEP_REQUIRES(mutex) LOCKSTEP_THREAD_ATTRIBUTE(requires_capability(mutex))
// The caller does not hold `mutex`: the function takes it.
#define LOCKSTEP_EXCLUDES(mutex) LOCKSTEP_THREAD_ATTRIBUTE(locks_excluded(mutex))
// The function takes the mutex and keeps it, or releases it. Without a name: `this`, or what the
// constructor took.
#define LOCKSTEP_ACQUIRE(...) LOCKSTEP_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define LOCKSTEP_RELEASE(...) LOCKSTEP_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
// The function returns a reference to `mutex`, so that others can name it in annotations.
#define LOCKSTEP_RETURNS(mutex) LOCKSTEP_THREAD_ATTRIBUTE(lock_returned(mutex))
// The analysis skips this function. A comment beside it says why that is right.
#define LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS LOCKSTEP_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace lockstep {

class LOCKSTEP_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void lock() LOCKSTEP_ACQUIRE() { mutex_.lock(); }
  void unlock() LOCKSTEP_RELEASE() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

// Holds a mutex for the length of a block.
class LOCKSTEP_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) LOCKSTEP_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() LOCKSTEP_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Releases a held mutex for the length of a block, and takes it again however the block ends.
class LOCKSTEP_THREAD_ATTRIBUTE(scoped_lockable) MutexUnlock {
 public:
  explicit MutexUnlock(Mutex& mutex) LOCKSTEP_RELEASE(mutex) : mutex_(mutex) { mutex_.unlock(); }
  // To the analysis, the end of a scope is RELEASE; it knows what the constructor did.
  ~MutexUnlock() LOCKSTEP_RELEASE() { mutex_.lock(); }
  MutexUnlock(const MutexUnlock&) = delete;
  MutexUnlock& operator=(const MutexUnlock&) = delete;

 private:
  Mutex& mutex_;
};

// A condition that threads wait for, always with the same mutex, which they hold: a wait releases
// it and holds it again when it returns. Waits may end early. So call them in a loop, or pass
// `ready`, which tells whether to continue. It runs with the mutex held and must be annotated if it
// reads guarded members: [this]() LOCKSTEP_REQUIRES(mutex_) { … }.
class Condition {
 public:
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }

  void wait(Mutex& mutex) LOCKSTEP_REQUIRES(mutex) {
    const Borrowed lock(mutex.mutex_);
    condition_.wait(lock.held);
  }
  // Waits until `moment` at most.
  void wait_until(Mutex& mutex, Clock::time_point moment) LOCKSTEP_REQUIRES(mutex) {
    const Borrowed lock(mutex.mutex_);
    condition_.wait_until(lock.held, moment);
  }
  // Waits for `limit` at most. Every limit is valid, also Duration::max().
  void wait_for(Mutex& mutex, Duration limit) LOCKSTEP_REQUIRES(mutex) {
    wait_until(mutex, Deadline::after(limit).at());
  }

  // The analysis cannot know that the mutex that `ready` requires is this one.
  template <typename Ready>
  void wait(Mutex& mutex, const Ready& ready)
      LOCKSTEP_REQUIRES(mutex) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    while (!ready()) wait(mutex);
  }
  // Returns the last result of `ready`.
  template <typename Ready>
  bool wait_until(Mutex& mutex, Clock::time_point moment, const Ready& ready)
      LOCKSTEP_REQUIRES(mutex) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    while (!ready()) {
      if (Clock::now() >= moment) return false;
      wait_until(mutex, moment);
    }
    return true;
  }
  template <typename Ready>
  bool wait_for(Mutex& mutex, Duration limit, const Ready& ready) LOCKSTEP_REQUIRES(mutex) {
    return wait_until(mutex, Deadline::after(limit).at(), ready);
  }

 private:
  // The lock that the caller holds and keeps, as the standard library wants to see it.
  struct Borrowed {
    explicit Borrowed(std::mutex& mutex) : held(mutex, std::adopt_lock) {}
    ~Borrowed() { held.release(); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    mutable std::unique_lock<std::mutex> held;
  };

  std::condition_variable condition_;
};

}  // namespace lockstep
