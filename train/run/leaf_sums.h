// Sums of one number per micro-batch, over the same fixed tree as the gradients. The bits of such
// losses do not depend on the number of ranks, nor on which rank computed which micro-batch.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

// The sum of leaves in the order of the fixed tree (base/sum_tree.h). 0 for no leaves.
float tree_sum(std::span<const float> leaves);

// Flags that travel with a sum and need no collective of their own. A flag is true if any rank sets
// it.
struct StepFlags {
  bool stop = false;     // the run ends here
  bool save = false;     // the state is saved
  bool no_data = false;  // this rank had no data for its micro-batches
};

// Starts the sum over the `total` leaves of all ranks. `mine` are this rank's leaves: (index,
// value).
class LeafSum {
 public:
  using Leaf = std::pair<int64_t, float>;
  LeafSum(std::span<const Leaf> mine, int64_t total, const StepFlags& flags,
          comm::ProcessGroup& group);
  // Both wait for the result.
  float sum();
  StepFlags flags();

 private:
  Tensor values_;  // f32 [total + kFlags]: leaves (0 if another rank has it), then flags
  comm::Work work_;
};

}  // namespace lockstep::train
