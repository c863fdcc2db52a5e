// The arithmetic of reductions on host memory, which the backends share. It combines elements of
// all ranks in a ReduceTree's order. Sums of bf16 and f16 are computed in f32 and rounded once, at
// the end.
#pragma once

#include <cstdint>
#include <span>

#include "comm/process_group.h"

namespace lockstep::comm {

// outs[0..][i] = sources[0][i] op sources[1][i] op …, in the order that `steps` gives. sources: one
// for each rank, `count` elements each. Every out gets the same values. An out may be one of the
// sources (same address) but must not overlap otherwise. For bool, sum and max mean "or"; product
// and min mean "and". Thread-safe for disjoint outs; runs on the calling thread.
void reduce_in_order(DType dtype, ReduceOp op, std::span<const ReduceTree::Step> steps,
                     std::span<const void* const> sources, std::span<void* const> outs,
                     int64_t count);

// Throws UsageError unless the dtype suits the operation: band, bor and bxor need integers or bool.
void check_reducible(DType dtype, ReduceOp op);

// Part i of [0, count), divided into `parts` contiguous pieces to share a reduction. Pieces start
// at multiples of 64 elements.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
Range part_of(int64_t count, int parts, int i);

}  // namespace lockstep::comm
