#include "ddp/comm_hook.h"

namespace lockstep::ddp {

PendingReduction all_reduce_hook(const Tensor& bucket, comm::ProcessGroup& group,
                                 const BucketSum& sum) {
  return {group.all_reduce(bucket, sum.options()), {}};
}

PendingReduction bf16_compress_hook(const Tensor& bucket, comm::ProcessGroup& group,
                                    const BucketSum& sum) {
  const Tensor compressed = bucket.to(DType::bf16);
  auto work = group.all_reduce(compressed, sum.options());
  return {work, [bucket, compressed] { bucket.copy_(compressed); }};
}

}  // namespace lockstep::ddp
