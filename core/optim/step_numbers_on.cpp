#include "core/optim/step_numbers_on.h"

#include <cstring>

namespace lockstep::optim {
namespace {

constexpr int64_t kWords = sizeof(StepNumbers) / sizeof(int64_t);

}  // namespace

StepNumbersOn::StepNumbersOn(Device device) {
  const MemoryScope scope(MemoryCategory::buffers);
  there_ = Tensor::zeros({kWords}, DType::i64, device);
  host_ = device == kCpu ? there_ : Tensor::pinned({kWords}, DType::i64, device);
}

StepNumbers* StepNumbersOn::on_device() const { return static_cast<StepNumbers*>(there_.raw()); }

void StepNumbersOn::send(const StepNumbers& numbers) const {
  if (device() == kCpu) {
    std::memcpy(there_.raw(), &numbers, sizeof(numbers));
    return;
  }
  // Pinned memory of its own, which is used again only once the copy is done: the host may be steps
  // ahead of the device.
  const MemoryScope scope(MemoryCategory::buffers);
  const Tensor from = Tensor::pinned({kWords}, DType::i64, device());
  std::memcpy(from.raw(), &numbers, sizeof(numbers));
  there_.copy_later(from);
}

void StepNumbersOn::fetch() {
  if (device() != kCpu) fetched_ = host_.copy_later(there_);
}

StepNumbers StepNumbersOn::read() const {
  fetched_.synchronize();
  StepNumbers numbers;
  std::memcpy(&numbers, host_.raw(), sizeof(numbers));
  return numbers;
}

}  // namespace lockstep::optim
