// One call of torch.distributed that is under way: c10d's Work, and the future that belongs to it.
#pragma once

#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "comm/work.h"
#include "core/base/mutex.h"
#include "python/torch/workers.h"

namespace lockstep::pytorch {

// What a call consists of. The parts of a Plan are submitted already.
struct Plan {
  std::vector<comm::Work> works;
  std::vector<std::shared_future<void>> exchanges;  // see exchange.h
  // Puts the results into the caller's tensors; run in order, once everything above is done well.
  std::vector<std::function<void()>> deliveries;
};

// The part of a call that lives until the call is finished, whoever finishes it. Thread-safe.
class CallState {
 public:
  // `limit` of wait() without one; zero: the group's. `ended`: at the end, however it comes.
  // `give_up`: ends the group, for a wait that reaches its limit.
  CallState(Plan plan, std::vector<at::Tensor> outputs, Duration limit, std::function<void()> ended,
            std::function<void(const std::string&)> give_up);

  bool finished();  // finishes the call if its parts are done
  void wait(Duration limit);
  // Waits and keeps the error to itself.
  void finish_quietly() noexcept;
  std::exception_ptr error() const;
  const std::vector<at::Tensor>& outputs() const { return outputs_; }
  bool delivers() const { return delivers_; }
  // The same one at each call; `created` says whether this call made it.
  c10::intrusive_ptr<c10::ivalue::Future> future(bool& created);

 private:
  void wait_for_parts(Duration limit) const;
  void settle(std::exception_ptr error);
  void complete(c10::ivalue::Future& future) const;

  const Plan plan_;
  const std::vector<at::Tensor> outputs_;
  const Duration limit_;
  const bool delivers_;
  std::function<void()> ended_;
  const std::function<void(const std::string&)> give_up_;

  std::once_flag once_;
  mutable Mutex mutex_;
  bool settled_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::exception_ptr error_ LOCKSTEP_GUARDED_BY(mutex_);
  c10::intrusive_ptr<c10::ivalue::Future> future_ LOCKSTEP_GUARDED_BY(mutex_);
};

class CallWork final : public c10d::Work {
 public:
  CallWork(int rank, c10d::OpType type, const char* title, const std::vector<at::Tensor>& inputs,
           std::vector<at::Tensor> outputs, Plan plan, Duration limit,
           std::shared_ptr<Workers> workers, std::function<void(const std::string&)> give_up);
  // The results still arrive.
  ~CallWork() override;

  bool isCompleted() override { return state_->finished(); }
  bool isSuccess() const override { return state_->finished() && !state_->error(); }
  std::exception_ptr exception() const override { return state_->error(); }
  void synchronize() override {}
  // Zero: the limit of the call or of its group. Throws the call's error, or TimeoutError.
  bool wait(std::chrono::milliseconds timeout) override;
  std::vector<at::Tensor> result() override { return state_->outputs(); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  std::shared_ptr<Workers> workers_;
  std::shared_ptr<CallState> state_;
};

}  // namespace lockstep::pytorch
