// Reduces slices that came from several ranks, in the fixed order of a tree (comm/reduce): what a
// group on CUDA devices needs between two exchanges.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/base/dtype.h"
#include "core/device/queue.h"

namespace lockstep::cuda {

// On bool, sum and max mean "or", product and min "and". The last three need integers or bool.
enum class SliceOp : uint8_t { sum, product, min, max, band, bor, bxor };

inline constexpr int kMostSlices = 1024;

// In which order slices are combined: value[left] op= value[right], one step after another. Made
// from a tree over the slices whose nodes are runs of neighbours, children before their parent.
class SliceOrder {
 public:
  // Throws UsageError if the steps are no such tree over `slices` slices, or there are too many.
  SliceOrder(int slices, const std::vector<std::pair<int, int>>& steps);

  int slices() const { return static_cast<int>(adds_.size()); }
  // The same as a walk over the slices: push slice i, then combine the two on top adds()[i] times.
  const std::vector<uint8_t>& adds() const { return adds_; }
  // The most values that wait at a time.
  int depth() const { return depth_; }

 private:
  std::vector<uint8_t> adds_;
  int depth_ = 1;
};

// out[i] = slice 0's element i op slice 1's op …, in the order. Slice `own` begins at `mine`. The
// others, in their order, begin at `others`, others + stride, … (in elements). `out` may be `mine`.
// bf16 and f16 are combined in f32 and rounded once, at the end.
void combine_slices(const Queue& queue, DType dtype, SliceOp op, const SliceOrder& order, int own,
                    const void* mine, const void* others, int64_t stride, void* out, int64_t count);

}  // namespace lockstep::cuda
