#include "ddp/comm_hook.h"

namespace lockstep::ddp {

PendingReduction all_reduce_hook(const Tensor& bucket, comm::ProcessGroup& group, const comm::ReduceTree& tree) {
  return {group.all_reduce(bucket, {.op = comm::ReduceOp::sum, .tree = &tree}), {}};
}

PendingReduction bf16_compress_hook(const Tensor& bucket, comm::ProcessGroup& group, const comm::ReduceTree& tree) {
  const Tensor compressed = bucket.to(DType::bf16);
  auto work = group.all_reduce(compressed, {.op = comm::ReduceOp::sum, .tree = &tree});
  return {work, [bucket, compressed] { bucket.copy_(compressed); }};
}

}  // namespace lockstep::ddp
