#include "comm/lane.h"

#include "comm/work_state.h"

namespace lockstep::comm {

void Lane::close() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    ready_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Lane::submit(Job job) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(job));
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  if (!busy_) ready_.notify_one();
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
  if (!busy_ && (!queue_.empty() || stopping_)) ready_.notify_all();
}

void Lane::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    ready_.wait(lock, [this] { return !busy_ && (stopping_ || !queue_.empty()); });
    if (queue_.empty()) return;
    run_front(lock);
  }
}

}  // namespace lockstep::comm
