#include "train/leaf_sums.h"

#include <bit>

namespace lockstep::train {

float tree_sum(std::span<const float> leaves) {
  if (leaves.empty()) return 0.0f;
  if (leaves.size() == 1) return leaves[0];
  const size_t split = std::bit_floor(leaves.size() - 1);
  return tree_sum(leaves.first(split)) + tree_sum(leaves.subspan(split));
}

LeafSum::LeafSum(std::span<const float> leaves, float flag, comm::ProcessGroup& group, const comm::ReduceTree& tree)
    : values_(Tensor::from(std::vector<float>{tree_sum(leaves), flag}, {2})) {
  work_ = group.all_reduce(values_, {.op = comm::ReduceOp::sum, .tree = &tree});
}

float LeafSum::sum() {
  work_.wait();
  return values_.to_vector<float>()[0];
}

float LeafSum::flags() {
  work_.wait();
  return values_.to_vector<float>()[1];
}

}  // namespace lockstep::train
