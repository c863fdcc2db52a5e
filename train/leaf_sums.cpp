#include "train/leaf_sums.h"

#include <bit>

namespace lockstep::train {

float tree_sum(std::span<const float> leaves) {
  if (leaves.empty()) return 0.0f;
  if (leaves.size() == 1) return leaves[0];
  const size_t split = std::bit_floor(leaves.size() - 1);
  return tree_sum(leaves.first(split)) + tree_sum(leaves.subspan(split));
}

LeafSum::LeafSum(std::span<const Leaf> mine, int64_t total, float flag, comm::ProcessGroup& group) : values_(Tensor::zeros({total + 1})) {
  const std::span<float> values = values_.span<float>();
  for (const auto& [leaf, value] : mine) values[static_cast<size_t>(leaf)] = value;
  values.back() = flag;
  work_ = group.all_reduce(values_);
}

float LeafSum::sum() {
  work_.wait();
  return tree_sum(std::span<const float>(values_.span<float>()).first(static_cast<size_t>(values_.numel() - 1)));
}

float LeafSum::flags() {
  work_.wait();
  return values_.span<float>().back();
}

}  // namespace lockstep::train
