#include "fsdp/layout.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/device/kernels.h"

namespace lockstep::fsdp {
namespace {

// Parameters start at cache lines.
constexpr int64_t kAlign = 16;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

FlatLayout::FlatLayout(std::vector<int64_t> numels, int ranks)
    : numels_(std::move(numels)), offsets_(numels_.size()), ranks_(ranks) {
  check(ranks >= 1, "[fsdp] a layout needs at least one rank, got ", ranks);
  int64_t sum = 0;
  for (int64_t n : numels_) sum += round_up(n, kAlign);
  // Grow in small steps first, to spread small units evenly, and then in blocks.
  int64_t slice = std::max(kAlign, round_up((sum + ranks - 1) / ranks, kAlign));
  while (!place(slice))
    slice = slice < kSquareBlock ? slice + kAlign : round_up(slice + 1, kSquareBlock);
  slice_ = slice;
}

// Returns whether all parameters fit into slices of this size, and sets their offsets.
bool FlatLayout::place(int64_t slice) {
  int64_t at = 0;
  for (size_t i = 0; i < numels_.size(); ++i) {
    const int64_t n = numels_[i];
    if (n > 0) {
      const int64_t boundary = (at / slice + 1) * slice;
      if (at + n > boundary) at += (boundary - at) % kSquareBlock;
      // A parameter cut once is cut at a block boundary by now. A parameter cut twice or more also
      // needs slices of whole blocks.
      const int64_t first_cut = (at / slice + 1) * slice;
      if (at + n > first_cut && (first_cut - at) % kSquareBlock != 0) return false;
      if (at + n > first_cut + slice && slice % kSquareBlock != 0) return false;
    }
    offsets_[i] = at;
    at += round_up(n, kAlign);
  }
  return at <= slice * ranks_;
}

std::vector<Piece> FlatLayout::pieces(int rank) const {
  const int64_t begin = slice_ * rank, end = begin + slice_;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < numels_.size(); ++i) {
    const int64_t first = std::max(begin, offsets_[i]),
                  last = std::min(end, offsets_[i] + numels_[i]);
    if (first < last) pieces.push_back({i, first - offsets_[i], first - begin, last - first});
  }
  return pieces;
}

}  // namespace lockstep::fsdp
