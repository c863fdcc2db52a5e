#include "comm/work.h"

#include "comm/lane.h"
#include "comm/peer_failure.h"
#include "comm/work_state.h"
#include "core/base/error.h"

namespace lockstep::comm {

WorkState::WorkState(std::string what, Duration limit, std::weak_ptr<Lane> lane, std::function<void(const std::string&)> give_up)
    : what_(std::move(what)), limit_(limit), lane_(std::move(lane)), give_up_(std::move(give_up)) {}

void WorkState::finish(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  error_ = std::move(error);
  finished_at_ = Clock::now();
  done_.store(true, std::memory_order_release);
  finished_.notify_all();
}

std::exception_ptr WorkState::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

Duration WorkState::duration() const {
  std::lock_guard lock(mutex_);
  return done() ? finished_at_ - submitted_ : Duration::zero();
}

void WorkState::rethrow() const {
  if (const auto error = this->error()) std::rethrow_exception(error);
}

// The call keeps to its own limit, which starts when its turn comes; here the limit is of one wait, so a wait without a limit
// of its own must allow for the calls before.
void WorkState::wait() {
  while (!done()) wait_until_done(limit_, true);
  rethrow();
}

void WorkState::wait(Duration limit) {
  // Running the call ourselves would tie us to the call's limit.
  wait_until_done(limit, limit >= limit_);
  if (!done()) {
    const std::string message = str("[comm] ", what_, " was not done after a wait of ", seconds(limit), " s");
    give_up_(message);
    throw FromPeer<TimeoutError>(message);
  }
  rethrow();
}

void WorkState::wait_until_done(Duration limit, bool may_help) {
  if (done()) return;
  const Deadline deadline = Deadline::after(limit);
  const auto start = Clock::now();
  waiters_.fetch_add(1, std::memory_order_relaxed);
  if (may_help) {
    if (const auto lane = lane_.lock()) lane->help(*this);
  }
  {
    std::unique_lock lock(mutex_);
    finished_.wait_until(lock, deadline.at(), [this] { return done(); });
  }
  waiters_.fetch_sub(1, std::memory_order_relaxed);
  exposed_ns_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
}

bool Work::done() const { return !state_ || state_->done(); }
std::exception_ptr Work::error() const { return state_ ? state_->error() : nullptr; }
void Work::wait() const {
  if (state_) state_->wait();
}
void Work::wait(Duration timeout) const {
  if (state_) state_->wait(timeout);
}
Duration Work::duration() const { return state_ ? state_->duration() : Duration::zero(); }
Duration Work::exposed() const { return state_ ? state_->exposed() : Duration::zero(); }

}  // namespace lockstep::comm
