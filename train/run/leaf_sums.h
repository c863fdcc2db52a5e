// Sums of one number per micro-batch, over the same fixed tree as the gradients: losses whose bits
// do not depend on the number of ranks, nor on which rank computed which micro-batch.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

// The sum of leaves in the order of the fixed tree (base/sum_tree.h); 0 for none.
float tree_sum(std::span<const float> leaves);

// What ranks say to each other along with a sum, so that it takes no collective of its own: true
// where any rank says so.
struct StepFlags {
  bool stop = false;     // the run is to end here
  bool save = false;     // the state is to be saved
  bool no_data = false;  // this rank had no data for its micro-batches
};

// Starts the sum over the `total` leaves of all ranks; `mine` are this rank's: (index, value).
class LeafSum {
 public:
  using Leaf = std::pair<int64_t, float>;
  LeafSum(std::span<const Leaf> mine, int64_t total, const StepFlags& flags,
          comm::ProcessGroup& group);
  // Wait for the result.
  float sum();
  StepFlags flags();

 private:
  Tensor values_;  // f32 [total + kFlags]: the leaves, 0 where another rank has it, and the flags
  comm::Work work_;
};

}  // namespace lockstep::train
