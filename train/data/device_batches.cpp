#include "train/data/device_batches.h"

#include <utility>

#include "core/base/error.h"

namespace lockstep::train {

Batch DeviceBatches::get(int64_t step, int64_t micro) {
  const auto ready = std::exchange(prefetched_, std::nullopt);
  if (ready && ready->step == step && ready->micro == micro) return ready->batch;
  return bring([&] { return data_.get(step, micro); });
}

Batch DeviceBatches::evaluation(int64_t index) const {
  return bring([&] { return data_.evaluation(index); });
}

Batch DeviceBatches::blank() const {
  return bring([&] { return data_.blank(); });
}

void DeviceBatches::prefetch(int64_t step, int64_t micro) {
  if (device_ == kCpu) return;
  try {
    prefetched_ = {step, micro, bring([&] { return data_.get(step, micro); })};
  } catch (const EnvironmentError&) {
    prefetched_.reset();
  }
}

Batch DeviceBatches::bring(const std::function<Batch()>& read) const {
  if (device_ == kCpu) return read();
  Batch host;
  {
    const MemoryScope category(MemoryCategory::buffers);
    const StorageScope pinned([&](size_t bytes) { return Storage::pinned(bytes, device_); });
    host = read();
  }
  const auto queued = [&](const Tensor& from) {
    const Tensor to = Tensor::empty(from.shape(), from.dtype(), device_);
    to.copy_later(from);
    return to;
  };
  return {queued(host.inputs), queued(host.targets)};
}

}  // namespace lockstep::train
