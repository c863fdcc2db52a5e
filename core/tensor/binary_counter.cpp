#include "core/tensor/binary_counter.h"

#include "core/base/sum_tree.h"
#include "core/device/kernels.h"

namespace lockstep {

const Tensor& BinaryCounter::target(int64_t i, bool last) {
  static const Tensor none;
  if (last) return none;
  const auto level = static_cast<size_t>(sum_tree::level_of(i));
  while (levels_.size() <= level) levels_.push_back(make_level_());
  return levels_[level];
}

void BinaryCounter::fold(const Tensor& term, int64_t i, bool last, int64_t offset) const {
  uint64_t carried = sum_tree::carried_by(i, last);
  for (size_t level = 0; carried != 0; ++level, carried >>= 1) {
    if ((carried & 1) == 0) continue;
    const float* sum = static_cast<const float*>(levels_[level].raw()) + offset;
    kernels(term.device()).axpby(DType::f32, term.numel(), 1.0f, sum, 1.0f, term.raw());
  }
}

}  // namespace lockstep
