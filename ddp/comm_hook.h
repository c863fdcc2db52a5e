// How a bucket is reduced. A hook starts the reduction of one bucket between ranks. The default is
// an all_reduce of the f32 sums.
#pragma once

#include <functional>

#include "comm/process_group.h"

namespace lockstep::ddp {

// A reduction that has started. `finish` (may be empty) runs after `work` is done and must leave
// the sum in the bucket.
struct PendingReduction {
  comm::Work work;
  std::function<void()> finish;
};

// How the ranks must sum one bucket. A hook gives options() to the collectives that it starts. The
// label then keeps ranks from mixing this bucket with one of another model, step or try.
struct BucketSum {
  BucketSum(const comm::ReduceTree& tree_, uint64_t label_ = 0) : tree(tree_), label(label_) {}

  const comm::ReduceTree& tree;
  uint64_t label;

  comm::ReduceOptions options() const {
    return {.op = comm::ReduceOp::sum, .tree = &tree, .label = label};
  }
  // For hooks that take only the tree. Their collectives have no label.
  operator const comm::ReduceTree&() const { return tree; }
};

// bucket: f32 [n], this rank's sum. In the end it must hold the sum over all ranks. The hook runs
// on the thread of backward(). If backward() throws later, `finish` does not run, and the next try
// calls the hook again.
using CommHook = std::function<PendingReduction(const Tensor& bucket, comm::ProcessGroup& group,
                                                const BucketSum& sum)>;

// The default.
PendingReduction all_reduce_hook(const Tensor& bucket, comm::ProcessGroup& group,
                                 const BucketSum& sum);
// Halves the bytes: each rank's sum is rounded to bf16, summed in f32, and rounded to bf16 again.
// The result does not depend on timing. It does depend on the number of ranks, because each rank
// rounds its own part.
PendingReduction bf16_compress_hook(const Tensor& bucket, comm::ProcessGroup& group,
                                    const BucketSum& sum);

}  // namespace lockstep::ddp
