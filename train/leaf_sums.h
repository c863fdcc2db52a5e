// Sums of one number per micro-batch, over the same fixed tree as the gradients: losses and counts whose bits do not depend on
// the number of ranks.
#pragma once

#include <span>

#include "comm/process_group.h"

namespace lockstep::train {

// The sum of a contiguous block of leaves in the tree's order (a node splits at the largest power of two below its size).
float tree_sum(std::span<const float> leaves);

// Starts the sum over all leaves of all ranks; `leaves` are this rank's block of `tree`. `flag` is summed along: a way for
// ranks to agree on something (to stop, say) without another collective.
class LeafSum {
 public:
  LeafSum(std::span<const float> leaves, float flag, comm::ProcessGroup& group, const comm::ReduceTree& tree);
  // Wait for the result.
  float sum();
  float flags();

 private:
  Tensor values_;  // f32 [2]: sum, flags
  comm::Work work_;
};

}  // namespace lockstep::train
