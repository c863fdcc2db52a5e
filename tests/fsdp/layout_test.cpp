#include "fsdp/layout.h"

#include <gmock/gmock.h>

#include "core/device/kernels.h"

namespace lockstep::fsdp {
namespace {

// Every element of every parameter is owned once, in order, and no slice cuts a block of the
// gradient norm.
void expect_sound(const std::vector<int64_t>& numels, int ranks) {
  const FlatLayout layout(numels, ranks);
  std::vector<int64_t> next(numels.size(), 0);
  for (int r = 0; r < ranks; ++r) {
    int64_t end = 0;
    for (const Piece& piece : layout.pieces(r)) {
      EXPECT_GE(piece.length, 1);
      EXPECT_GE(piece.slice_offset, end);
      end = piece.slice_offset + piece.length;
      EXPECT_LE(end, layout.slice());
      EXPECT_EQ(piece.parameter_offset, next[piece.parameter])
          << "of parameter " << piece.parameter << " on rank " << r;
      EXPECT_EQ(piece.parameter_offset % kSquareBlock, 0);
      EXPECT_EQ(layout.offset(piece.parameter) + piece.parameter_offset,
                r * layout.slice() + piece.slice_offset);
      next[piece.parameter] += piece.length;
    }
  }
  EXPECT_EQ(next, numels);
}

TEST(FlatLayout, OwnsEveryElementOnceAndCutsAtBlocks) {
  for (int ranks : {1, 2, 3, 4, 5, 8, 64}) {
    expect_sound({10}, ranks);
    expect_sound({1, 0, 7, 1}, ranks);
    expect_sound({4096, 12288, 384, 1152, 442368, 384}, ranks);
    expect_sound({1023, 1025, 1, 5000, 333, 100000, 17}, ranks);
    expect_sound(std::vector<int64_t>(50, 100), ranks);
    expect_sound({0, 0}, ranks);
  }
}

TEST(FlatLayout, OneRankPadsOnlyToCacheLines) {
  EXPECT_EQ(FlatLayout({10, 20}, 1).slice(), 16 + 32);
}

TEST(FlatLayout, LargeUnitsArePaddedByLittle) {
  const std::vector<int64_t> block{384, 384, 442368, 1152, 147456, 384,
                                   384, 384, 589824, 1536, 589824, 384};
  int64_t sum = 0;
  for (int64_t n : block) sum += n;
  for (int ranks : {2, 3, 4, 8})
    EXPECT_LT(FlatLayout(block, ranks).total(), sum * 101 / 100 + 1024 * ranks) << ranks;
}

TEST(FlatLayout, SmallUnitsAreSpreadAsWell) {
  // Four parameters that no block boundary cuts: one for each of four ranks.
  const FlatLayout layout({64, 64, 64, 64}, 4);
  for (int r = 0; r < 4; ++r) EXPECT_EQ(layout.pieces(r).size(), 1u);
}

TEST(FlatLayout, RanksMayOwnNothing) {
  const FlatLayout layout({3}, 4);
  EXPECT_EQ(layout.pieces(0).size(), 1u);
  for (int r = 1; r < 4; ++r) EXPECT_TRUE(layout.pieces(r).empty());
}

}  // namespace
}  // namespace lockstep::fsdp
