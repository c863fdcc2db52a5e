// Lane: runs jobs in order, one at a time, away from the threads that submit them.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "comm/engine/limit.h"
#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::comm {

class WorkState;

// Thread-safe. Small calls are mostly waited for at once, and changing threads, there and back,
// would cost them more than their work. So a thread that waits for a job runs the queue itself
// (help), and the lane's own thread leaves a lone small job to it for a while; it starts large
// jobs, and whatever has another job behind it, at once.
class Lane {
 public:
  struct Job {
    std::shared_ptr<WorkState> work;
    std::function<void()> run;  // answers `work`; does not throw
    bool large = false;
    Clock::time_point submitted = Clock::now();
  };

  Lane() = default;
  ~Lane() { close(); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Not after close().
  void submit(Job job);
  // Runs queued jobs on the calling thread until `work` is answered or another thread is at it.
  void help(const WorkState& work);
  // Which of its jobs nobody waits for any more.
  GivenUp& given_up() { return given_up_; }
  // Waits until everything submitted has run, then ends the thread.
  void close();

 private:
  void loop();
  // Releases the lock while the job runs.
  void run_front() LOCKSTEP_REQUIRES(mutex_);
  bool is_due() const LOCKSTEP_REQUIRES(mutex_);
  void sleep() LOCKSTEP_REQUIRES(mutex_);

  GivenUp given_up_;
  Mutex mutex_;
  Condition wake_;
  std::deque<Job> queue_ LOCKSTEP_GUARDED_BY(mutex_);
  bool busy_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  bool stopping_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  bool used_ LOCKSTEP_GUARDED_BY(mutex_) = false;    // since the thread last looked
  bool asleep_ LOCKSTEP_GUARDED_BY(mutex_) = false;  // the thread looks only when it is woken
  std::thread thread_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm
