// The memory of gradients. Parameters are grouped into buckets. Each bucket is one flat f32 tensor,
// which one collective reduces. Gradients are views into it, so nothing is copied before or after
// the reduction.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"
#include "core/tensor/binary_counter.h"

namespace lockstep::ddp {

// The parameters of each bucket, as the
// indices that make_layout() got. Buckets are
// listed in the order in which they are
// reduced.
using BucketLayout = std::vector<std::vector<size_t>>;

// Fills buckets in the given order of parameter indices. A parameter is never split; one that is
// larger than the limit gets a bucket of its own. The first bucket closes at `first_bytes`, so that
// communication starts early.
BucketLayout make_layout(const std::vector<size_t>& order,
                         const std::vector<int64_t>& parameter_bytes, int64_t first_bytes,
                         int64_t bucket_bytes);

// The flat memory of one bucket. Ranks reduce `total`, which lies in memory that suits the group's
// collectives. A binary counter holds the partial sums of a rank's micro-batches.
class Bucket {
 public:
  Bucket(std::vector<size_t> members, const std::vector<Parameter>& parameters,
         comm::ProcessGroup& group);

  const std::vector<size_t>& members() const { return members_; }
  const Tensor& total() const { return total_; }  // f32 [numel]
  // The part of `total` for the bucket's k-th member, in the parameter's shape.
  Tensor total_of(size_t k) const { return part_of(total_, k); }
  // Returns where that micro-batch must write the k-th member's gradient. The last micro-batch of
  // this rank's share writes to `total`.
  Tensor target(size_t k, const SumSlots::Place& place);
  // Adds earlier sums to `gradient`, which was written there, as BinaryCounter::fold() describes.
  void fold(size_t k, const Tensor& gradient, const SumSlots::Place& place) const {
    sums_.fold(gradient, place, offsets_[k]);
  }

 private:
  Tensor part_of(const Tensor& flat, size_t k) const;

  std::vector<size_t> members_;
  std::vector<Shape> shapes_;
  std::vector<int64_t> offsets_;  // in elements
  Tensor total_;
  BinaryCounter sums_{nullptr};  // made with total_
};

}  // namespace lockstep::ddp
