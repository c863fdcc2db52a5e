// How a bucket travels. A hook starts the reduction of one bucket between ranks; the default is an all_reduce of the f32 sums.
#pragma once

#include <functional>

#include "comm/process_group.h"

namespace lockstep::ddp {

// A reduction under way: `finish` (may be empty) runs after `work` is done and must leave the sum in the bucket.
struct PendingReduction {
  comm::Work work;
  std::function<void()> finish;
};

// bucket: f32 [n], this rank's sum; must hold the sum over all ranks in the end. Runs on the thread of backward().
using CommHook = std::function<PendingReduction(const Tensor& bucket, comm::ProcessGroup& group, const comm::ReduceTree& tree)>;

// The default.
PendingReduction all_reduce_hook(const Tensor& bucket, comm::ProcessGroup& group, const comm::ReduceTree& tree);
// Half the bytes: each rank's sum is rounded to bf16, summed in f32 and rounded to bf16 once more. The result still does not
// depend on timing, but does depend on the number of ranks, since each rank rounds its own part.
PendingReduction bf16_compress_hook(const Tensor& bucket, comm::ProcessGroup& group, const comm::ReduceTree& tree);

}  // namespace lockstep::ddp
