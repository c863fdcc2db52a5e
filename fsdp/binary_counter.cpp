#include "fsdp/binary_counter.h"

#include "core/device/kernels.h"

namespace lockstep::fsdp {
namespace {

int trailing_ones(int64_t i) { return __builtin_ctzll(~static_cast<uint64_t>(i)); }

}  // namespace

Tensor BinaryCounter::target(int64_t i, bool last) {
  if (last) return {};
  const auto level = static_cast<size_t>(trailing_ones(i));
  while (levels_.size() <= level) levels_.push_back(make_level_());
  return levels_[level];
}

void BinaryCounter::fold(const Tensor& term, int64_t i, bool last) {
  const uint64_t carried = last ? static_cast<uint64_t>(i) : (uint64_t{1} << trailing_ones(i)) - 1;
  for (size_t level = 0; (carried >> level) != 0; ++level)
    if ((carried >> level) & 1) kernels(term.device()).axpby(DType::f32, term.numel(), 1.0f, levels_[level].raw(), 1.0f, term.raw());
}

}  // namespace lockstep::fsdp
