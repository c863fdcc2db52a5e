#include "comm/engine/lane.h"

#include "comm/engine/work_state.h"
#include "core/base/thread.h"

namespace lockstep::comm {
namespace {

// How long a lone small job waits for somebody to wait for it. Waking a thread for it takes longer
// than most of them run.
constexpr Duration kPatience = std::chrono::milliseconds(5);

}  // namespace

void Lane::submit(Job job) {
  std::lock_guard lock(mutex_);
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

void Lane::run_front(std::unique_lock<std::mutex>& lock) {
  Job job = std::move(queue_.front());
  queue_.pop_front();
  busy_ = true;
  lock.unlock();
  job.run();
  job = {};  // its tensors go before the next job starts
  lock.lock();
  busy_ = false;
}

void Lane::help(const WorkState& work) {
  std::unique_lock lock(mutex_);
  while (!busy_ && !queue_.empty() && !work.done()) run_front(lock);
  if (!busy_ && (stopping_ || !queue_.empty())) wake_.notify_one();
}

// While the lane is in use the thread looks at it by itself now and then, so that nobody has to
// wake it for a small job. With a job in the queue it must look again: it may have been woken too
// early for that job, and nobody else is bound to run it.
void Lane::sleep(std::unique_lock<std::mutex>& lock) {
  if (used_ || !queue_.empty()) {
    used_ = false;
    wake_.wait_until(lock, Clock::now() + kPatience);
    return;
  }
  asleep_ = true;
  wake_.wait(lock);
  asleep_ = false;
}

void Lane::loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_ || busy_ || !queue_.empty()) {
    if (is_due())
      run_front(lock);
    else
      sleep(lock);
  }
}

void Lane::close() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace lockstep::comm
