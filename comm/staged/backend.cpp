#include <atomic>
#include <map>
#include <utility>

#include "comm/staged/factory.h"
#include "comm/staged/staging.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/tensor/tensor.h"

namespace lockstep::comm {
namespace staged {
namespace {

class StagedBackend final : public Backend {
 public:
  StagedBackend(std::unique_ptr<Backend> inner, Device device)
      : inner_(std::move(inner)), device_(device) {}

  std::string name() const override { return "staged " + inner_->name(); }
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  Device device() const override { return device_; }

  Event execute(const Call& call) override {
    if (call.count == 0) return inner_->execute(of_no_bytes(call));
    await_ready(call);
    staging_of(call).run(call, *inner_);
    return {};
  }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override {
    auto inner = inner_->split(plan);
    return inner ? std::make_unique<StagedBackend>(std::move(inner), device_) : nullptr;
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    return Tensor::zeros({static_cast<int64_t>(bytes)}, DType::u8, device_).storage();
  }

  void abort(const std::string& reason) noexcept override {
    {
      const MutexLock lock(mutex_);
      if (aborted_.empty()) aborted_ = reason.empty() ? "aborted" : reason;
    }
    has_aborted_.store(true, std::memory_order_release);
    inner_->abort(reason);
  }

 private:
  using LaneKey = std::pair<Op, int>;  // (send|recv, peer), or (barrier, -1) for all collectives

  // A barrier, or a call of no elements: nobody touches the tensors.
  static Call of_no_bytes(Call call) {
    call.ready = {};
    return call;
  }

  Staging& staging_of(const Call& call) {
    const LaneKey key =
        point_to_point(call.op) ? LaneKey(call.op, call.root) : LaneKey(Op::barrier, -1);
    const MutexLock lock(mutex_);
    auto& staging = lanes_[key];
    if (!staging) staging = std::make_unique<Staging>(device_);
    return *staging;
  }

  // What was queued before the call. A receive that is withdrawn waits, because its message may be
  // there already. Other ranks are not looked at: a device that works takes no time to speak of.
  void await_ready(const Call& call) {
    await(call.ready, [&] {
      if (has_aborted_.load(std::memory_order_acquire)) {
        const MutexLock lock(mutex_);
        throw EnvironmentError(aborted_);
      }
      if (call.limit.passed_in_time())
        throw TimeoutError(str(call.limit.reached(), ": ", device_, " of rank ", rank(),
                               " has not done what was queued before the call"));
    });
  }

  const std::unique_ptr<Backend> inner_;
  const Device device_;
  std::atomic<bool> has_aborted_ = false;
  Mutex mutex_;
  std::string aborted_ LOCKSTEP_GUARDED_BY(mutex_);
  std::map<LaneKey, std::unique_ptr<Staging>> lanes_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace
}  // namespace staged

std::unique_ptr<Backend> make_staged(std::unique_ptr<Backend> inner, Device device) {
  check(inner->device() == kCpu && device.type == DeviceType::cuda,
        "[comm] expected a backend of the CPU and a CUDA device, got a backend of ",
        inner->device(), " and ", device);
  current_queue(device);  // says what is missing
  return std::make_unique<staged::StagedBackend>(std::move(inner), device);
}

}  // namespace lockstep::comm
