#include "comm/engine/lane.h"

#include "comm/engine/work_state.h"
#include "core/base/thread.h"
#include "core/trace/trace.h"

namespace lockstep::comm {
namespace {

// How long a lone small job waits for somebody to wait for it. Waking a thread for it takes longer
// than most of them run.
constexpr Duration kPatience = std::chrono::milliseconds(5);

}  // namespace

void Lane::submit(Job job) {
  const MutexLock lock(mutex_);
  const bool first = !thread_.joinable();
  if (first) thread_ = start_thread("for the collectives of a group", [this] { loop(); });
  queue_.push_back(std::move(job));
  used_ = true;
  if (!first && (asleep_ || (!busy_ && is_due()))) wake_.notify_one();
}

bool Lane::is_due() const {
  if (busy_ || queue_.empty()) return false;
  const Job& next = queue_.front();
  // Whoever waits for it found the lane busy when it came to help, and sleeps by now.
  const bool awaited = next.work->waiters().load(std::memory_order_relaxed) > 0;
  return stopping_ || queue_.size() > 1 || next.large || awaited ||
         Clock::now() - next.submitted >= kPatience;
}

void Lane::run_front() {
  Job job = std::move(queue_.front());
  queue_.pop_front();
  busy_ = true;
  {
    const MutexUnlock unlocked(mutex_);
    job.run();
    job = {};  // its tensors go before the next job starts
  }
  busy_ = false;
}

void Lane::help(const WorkState& work) {
  const MutexLock lock(mutex_);
  while (!busy_ && !queue_.empty() && !work.answered()) run_front();
  if (!busy_ && (stopping_ || !queue_.empty())) wake_.notify_one();
}

// While the lane is in use the thread looks at it by itself now and then, so that nobody has to
// wake it for a small job. With a job in the queue it must look again: it may have been woken too
// early for that job, and nobody else is bound to run it.
void Lane::sleep() {
  if (used_ || !queue_.empty()) {
    used_ = false;
    wake_.wait_for(mutex_, kPatience);
    return;
  }
  asleep_ = true;
  wake_.wait(mutex_);
  asleep_ = false;
}

void Lane::loop() {
  trace::name_thread("collectives");
  const MutexLock lock(mutex_);
  while (!stopping_ || busy_ || !queue_.empty()) {
    if (is_due())
      run_front();
    else
      sleep();
  }
}

void Lane::close() {
  std::thread thread;
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
    thread.swap(thread_);
  }
  if (thread.joinable()) thread.join();
}

}  // namespace lockstep::comm
