#include "python/torch/call.h"

#include "comm/peer_failure.h"
#include "python/torch/errors.h"
#include "python/torch/tensors.h"

namespace lockstep::pytorch {

CallState::CallState(Plan plan, std::vector<at::Tensor> outputs, Duration limit,
                     std::function<void()> ended, std::function<void(const std::string&)> give_up)
    : plan_(std::move(plan)),
      outputs_(std::move(outputs)),
      limit_(limit),
      delivers_(!plan_.deliveries.empty()),
      ended_(std::move(ended)),
      give_up_(std::move(give_up)) {}

std::exception_ptr CallState::error() const {
  const MutexLock lock(mutex_);
  return error_;
}

bool CallState::finished() {
  {
    const MutexLock lock(mutex_);
    if (settled_) return true;
  }
  for (const comm::Work& work : plan_.works)
    if (!work.done()) return false;
  for (const auto& exchange : plan_.exchanges)
    if (exchange.wait_for(Duration::zero()) != std::future_status::ready) return false;
  finish_quietly();
  return true;
}

void CallState::wait(Duration limit) {
  std::exception_ptr error;
  {
    const MutexLock lock(mutex_);
    if (!settled_) {
      const MutexUnlock unlocked(mutex_);
      try {
        wait_for_parts(limit > Duration::zero() ? limit : limit_);
      } catch (...) {
        error = std::current_exception();
      }
      settle(error);
    }
    error = error_;
  }
  if (error) std::rethrow_exception(error);
}

void CallState::finish_quietly() noexcept {
  try {
    wait(Duration::zero());
  } catch (...) {  // kept in error_
  }
}

void CallState::wait_for_parts(Duration limit) const {
  const bool limited = limit > Duration::zero();
  const Deadline deadline = Deadline::after(limited ? limit : Duration::zero());
  for (const comm::Work& work : plan_.works)
    limited ? work.wait(deadline.remaining()) : work.wait();
  for (const auto& exchange : plan_.exchanges) {
    if (limited && exchange.wait_for(deadline.remaining()) != std::future_status::ready) {
      const std::string reason =
          str("[torch] all_to_all: the exchange of slices was not done after a wait of ",
              seconds(limit), " s");
      give_up_(reason);
      throw comm::FromPeer<TimeoutError>(reason);
    }
    exchange.get();
  }
}

void CallState::settle(std::exception_ptr error) {
  c10::intrusive_ptr<c10::ivalue::Future> future;
  std::call_once(once_, [&] {
    if (!error) {
      try {
        for (const auto& deliver : plan_.deliveries) deliver();
      } catch (...) {
        error = std::current_exception();
      }
    }
    if (error) remember_failure(error);
    if (ended_) ended_();
    ended_ = nullptr;
    const MutexLock lock(mutex_);
    error_ = error;
    settled_ = true;
    future = future_;
  });
  // Runs the callbacks of users, who may wait for this very call on another thread.
  if (future) complete(*future);
}

void CallState::complete(c10::ivalue::Future& future) const {
  if (const auto error = this->error())
    future.setError(error);
  else
    future.markCompleted(c10::IValue(outputs_));
}

c10::intrusive_ptr<c10::ivalue::Future> CallState::future(bool& created) {
  c10::intrusive_ptr<c10::ivalue::Future> future;
  {
    const MutexLock lock(mutex_);
    created = !future_;
    if (!created) return future_;
    future = future_ =
        c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    if (!settled_) return future;
  }
  complete(*future);
  return future;
}

CallWork::CallWork(int rank, c10d::OpType type, const char* title,
                   const std::vector<at::Tensor>& inputs, std::vector<at::Tensor> outputs,
                   Plan plan, Duration limit, std::shared_ptr<Workers> workers,
                   std::function<void(const std::string&)> give_up)
    : c10d::Work(rank, type, title, inputs), workers_(std::move(workers)) {
  // The profiler's record ends with the call, not with this handle.
  state_ = std::make_shared<CallState>(std::move(plan), std::move(outputs), limit,
                                       std::move(recordFunctionEndCallback_), std::move(give_up));
  recordFunctionEndCallback_ = nullptr;
}

CallWork::~CallWork() {
  if (!state_->delivers() || state_->finished()) return;
  try {
    workers_->run([state = state_] { state->finish_quietly(); });
  } catch (...) {  // no thread to be had: the results are lost, as nobody asked for them
  }
}

bool CallWork::wait(std::chrono::milliseconds timeout) {
  state_->wait(timeout);
  return true;
}

c10::intrusive_ptr<c10::ivalue::Future> CallWork::getFuture() {
  bool created = false;
  auto future = state_->future(created);
  if (created && !future->completed()) workers_->run([state = state_] { state->finish_quietly(); });
  return future;
}

}  // namespace lockstep::pytorch
