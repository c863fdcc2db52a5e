// The arithmetic of reductions on host memory, shared by the backends: elements of all ranks are
// combined in a ReduceTree's order. Sums of bf16 and f16 are carried in f32 and rounded once, at
// the end.
#pragma once

#include <cstdint>
#include <span>

#include "comm/process_group.h"

namespace lockstep::comm {

// outs[0..][i] = sources[0][i] op sources[1][i] op …, bracketed as `steps` say. sources: by rank,
// `count` elements each, at least one. Every out gets the same values; an out may be one of the
// sources (same address), but not overlap otherwise. On bool, sum and max mean "or", product and
// min "and". Thread-safe for disjoint outs; runs on the calling thread.
void reduce_in_order(DType dtype, ReduceOp op, std::span<const ReduceTree::Step> steps,
                     std::span<const void* const> sources, std::span<void* const> outs,
                     int64_t count);

// band, bor and bxor need integers or bool. Throws UsageError.
void check_reducible(DType dtype, ReduceOp op);

// Part i of [0, count) cut into `parts` contiguous pieces, for sharing out a reduction; all but the
// last start at multiples of 64 elements.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
Range part_of(int64_t count, int parts, int i);

}  // namespace lockstep::comm
