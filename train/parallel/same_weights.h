// Finds replicas of the weights that have drifted apart: a bit that flipped in one rank's memory, a
// transfer that went wrong. Without it, each rank would go on with weights of its own, and the
// gradients of one would be added to the weights of another.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/process_group.h"
#include "train/parallel/strategy.h"

namespace lockstep::train {

class SameWeights {
 public:
  // Collective. `held`: what this rank holds of the model. Ranks that hold the same parts are
  // replicas of each other: all ranks with ddp, a column of the mesh with fsdp's hybrid shards, and
  // none with other shards. `step`: the weights are those after this step, and are equal.
  SameWeights(std::span<const StatePart> held, comm::ProcessGroup& group, int64_t step);

  // Whether any rank has a replica on another one. The same answer on all ranks.
  bool any() const { return any_; }

  // Collective. Compares fingerprints (XXH3) of all values. If replicas differ, throws
  // EnvironmentError on all ranks. It names the ranks whose values differ from those of most, their
  // hosts, and the first parameter. On the other ranks it counts as caused by a peer.
  void check(std::span<const StatePart> held, int64_t step);

 private:
  [[noreturn]] void fail(std::span<const StatePart> held, const std::vector<int64_t>& prints,
                         int64_t step) const;

  comm::ProcessGroup& group_;
  std::vector<int64_t> layouts_;  // by rank; equal for replicas
  bool any_ = false;
  int64_t equal_at_;  // the last step after which they were equal
};

}  // namespace lockstep::train
