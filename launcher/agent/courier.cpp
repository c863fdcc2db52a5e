#include "launcher/agent/courier.h"

#include <utility>

#include "core/base/thread.h"

namespace lockstep::launcher {

Courier::Courier(std::function<void()> on_done)
    : on_done_(std::move(on_done)),
      thread_(start_thread("to talk to the rendezvous", [this] { run(); })) {}

Courier::~Courier() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Courier::send(std::function<void()> call) {
  const MutexLock lock(mutex_);
  if (error_) return;
  calls_.push_back(std::move(call));
  changed_.notify_all();
}

bool Courier::idle() {
  const MutexLock lock(mutex_);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  return calls_.empty();
}

void Courier::run() {
  const MutexLock lock(mutex_);
  while (true) {
    changed_.wait(mutex_,
                  [this]() LOCKSTEP_REQUIRES(mutex_) { return stopping_ || !calls_.empty(); });
    if (stopping_) return;
    const std::function<void()> call = calls_.front();
    std::exception_ptr error;
    {
      const MutexUnlock unlocked(mutex_);
      try {
        call();
      } catch (...) {
        error = std::current_exception();
      }
    }
    calls_.pop_front();
    if (error) {
      error_ = error;
      calls_.clear();
    }
    on_done_();
  }
}

}  // namespace lockstep::launcher
