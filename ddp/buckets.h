// The memory of gradients: parameters grouped into buckets, each one flat f32 tensor that is reduced by one collective.
// Gradients are views into it, so nothing is copied before or after the reduction.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"

namespace lockstep::ddp {

// Which parameters go into which bucket, in the order in which the buckets are reduced.
using BucketLayout = std::vector<std::vector<size_t>>;

// Fills buckets in the given order of parameter indices. A parameter is never split; one that is larger than the limit gets a
// bucket of its own. The first bucket closes at `first_bytes`, so that communication starts early.
BucketLayout make_layout(const std::vector<size_t>& order, const std::vector<int64_t>& parameter_bytes, int64_t first_bytes,
                         int64_t bucket_bytes);

// The flat memory of one bucket. Level 0.. hold partial sums of micro-batches (see DistributedDataParallel); `total` is what
// is reduced between ranks, in memory that suits the group's collectives. Levels are allocated on first use.
class Bucket {
 public:
  Bucket(std::vector<size_t> members, const std::vector<Parameter>& parameters, comm::ProcessGroup& group);

  const std::vector<size_t>& members() const { return members_; }
  const Tensor& total() const { return total_; }  // f32 [numel]
  // The part of `total` (level < 0) or of a level's sum that belongs to the bucket's k-th member, in the parameter's shape.
  Tensor view(size_t k, int level);

 private:
  std::vector<size_t> members_;
  std::vector<Shape> shapes_;
  std::vector<int64_t> offsets_;  // in elements
  Tensor total_;
  std::vector<Tensor> levels_;
};

}  // namespace lockstep::ddp
