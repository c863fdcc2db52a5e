// Sums of one number per micro-batch, over the same fixed tree as the gradients: losses whose bits do not depend on the number of
// ranks, nor on which rank computed which micro-batch.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

// The sum of leaves in the tree's order (a node splits at the largest power of two below its size).
float tree_sum(std::span<const float> leaves);

// Starts the sum over the `total` leaves of all ranks; `mine` are this rank's: (index, value). `flag` is summed along: a way for
// ranks to agree on something (to stop, say) without another collective.
class LeafSum {
 public:
  using Leaf = std::pair<int64_t, float>;
  LeafSum(std::span<const Leaf> mine, int64_t total, float flag, comm::ProcessGroup& group);
  // Wait for the result.
  float sum();
  float flags();

 private:
  Tensor values_;  // f32 [total + 1]: the leaves, 0 where another rank has it, and the flag
  comm::Work work_;
};

}  // namespace lockstep::train
