#include "ddp/buckets.h"

#include <algorithm>

#include "core/device/allocator.h"

namespace lockstep::ddp {
namespace {

// Views start on cache lines, so that kernels load them aligned and neighbours do not share a line.
constexpr int64_t kAlignElements = 16;

Tensor gradient_memory(int64_t numel, Device device) {
  MemoryScope scope(MemoryCategory::gradients);
  return Tensor::zeros({numel}, DType::f32, device);
}

}  // namespace

BucketLayout make_layout(const std::vector<size_t>& order,
                         const std::vector<int64_t>& parameter_bytes, int64_t first_bytes,
                         int64_t bucket_bytes) {
  BucketLayout layout;
  int64_t filled = 0;
  for (size_t index : order) {
    const int64_t limit = layout.size() <= 1 ? first_bytes : bucket_bytes;
    if (layout.empty() || (filled > 0 && filled + parameter_bytes[index] > limit)) {
      layout.emplace_back();
      filled = 0;
    }
    layout.back().push_back(index);
    filled += parameter_bytes[index];
  }
  // The order inside a bucket has no meaning. Sorting makes layouts comparable.
  for (auto& members : layout) std::sort(members.begin(), members.end());
  return layout;
}

Bucket::Bucket(std::vector<size_t> members, const std::vector<Parameter>& parameters,
               comm::ProcessGroup& group)
    : members_(std::move(members)) {
  int64_t numel = 0;
  for (size_t index : members_) {
    shapes_.push_back(parameters[index].shape());
    offsets_.push_back(numel);
    numel += (shapes_.back().numel() + kAlignElements - 1) / kAlignElements * kAlignElements;
  }
  MemoryScope scope(MemoryCategory::gradients);
  const Device device = parameters[members_.front()].device();
  total_ = group.size() > 1 ? group.allocate({numel}, DType::f32) : gradient_memory(numel, device);
  sums_ = BinaryCounter([=] { return gradient_memory(numel, device); });
}

Tensor Bucket::part_of(const Tensor& flat, size_t k) const {
  return flat.narrow(0, offsets_[k], shapes_[k].numel()).view(shapes_[k]);
}

Tensor Bucket::target(size_t k, const SumSlots::Place& place) {
  const Tensor& slot = sums_.target(place);
  return part_of(slot.defined() ? slot : total_, k);
}

}  // namespace lockstep::ddp
