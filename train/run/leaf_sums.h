// Losses of micro-batches: how a rank reads its own, and sums over the same fixed tree as the
// gradients. The bits of such sums do not depend on the number of ranks, nor on which rank computed
// which micro-batch.
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

// A micro-batch: its index and its value.
using Leaf = std::pair<int64_t, float>;

// The losses of one rank's micro-batches. None is waited for: each is added to one tensor on the
// device, which travels to the host as a whole.
class Losses {
 public:
  // For at most so many.
  Losses(Device device, int64_t most);

  // `loss`: f32, a single number, on the device.
  void add(int64_t leaf, const Tensor& loss);
  // f32 [number of losses], on the device, in the order of add().
  Tensor values() const { return values_.narrow(0, 0, static_cast<int64_t>(leaves_.size())); }
  // For a sum over ranks on the device: f32 [total + 1] with each loss at its leaf, and 0 for those
  // of other ranks. The last one is 0 or, if this rank refuses the step, NaN, which makes the sum
  // NaN on all ranks. A 0 more changes no bit of a sum.
  Tensor among(int64_t total, bool refused) const;
  // After the last add(): queues the copy to the host.
  void send();
  // Waits for the copy.
  std::vector<Leaf> read() const;

 private:
  std::vector<int64_t> leaves_;
  Tensor values_;  // f32 [most] on the device
  Tensor host_;    // the same on the host, after send()
  Event copied_;
};

// Starts the sum over the `total` leaves of all ranks. `mine` are this rank's leaves.
class LeafSum {
 public:
  using Leaf = train::Leaf;
  // `note`: numbers that travel along, as many on each rank.
  LeafSum(std::span<const Leaf> mine, int64_t total, const StepFlags& flags,
          comm::ProcessGroup& group, std::span<const float> note = {});
  // Each waits for the result.
  float sum();
  StepFlags flags();
  // The notes of all ranks, in their order.
  std::vector<float> notes();

 private:
  int64_t total_;
  // f32 [total + kFlags + W * notes]: leaves (0 if another rank has it), then flags, then notes
  Tensor values_;
  comm::Work work_;
};

// Collective. The flags of all ranks.
StepFlags agreed(const StepFlags& flags, comm::ProcessGroup& group);

}  // namespace lockstep::train
