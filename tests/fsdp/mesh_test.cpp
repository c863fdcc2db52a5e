#include "fsdp/mesh.h"

#include <gmock/gmock.h>

#include "core/base/error.h"

namespace lockstep::fsdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

Assignment of(int64_t micro_batches, int rows, int columns, int rank, bool interleave = true) {
  return assign(micro_batches, {rows, columns, rank / columns, rank % columns}, interleave);
}

TEST(Assignment, RoundsOfNeighboursWhereThatGivesNodesOfTheTree) {
  EXPECT_THAT(of(8, 1, 4, 1).leaves, ElementsAre(1, 5));
  EXPECT_TRUE(of(8, 1, 4, 1).by_round);
  EXPECT_EQ(of(8, 1, 4, 1).rounds, 2);
  EXPECT_THAT(of(12, 1, 4, 3).leaves, ElementsAre(3, 7, 11));
}

TEST(Assignment, BlocksOtherwise) {
  EXPECT_THAT(of(8, 1, 4, 1, false).leaves, ElementsAre(2, 3));
  EXPECT_THAT(of(8, 1, 3, 0).leaves, ElementsAre(0, 1, 2, 3));  // three is no power of two
  EXPECT_THAT(of(8, 1, 3, 2).leaves, ElementsAre(6, 7));
  EXPECT_EQ(of(8, 1, 3, 2).rounds, 4);  // as many as the busiest
  EXPECT_FALSE(of(11, 1, 4, 0).by_round);
}

TEST(Assignment, RowsTakeWholeNodes) {
  EXPECT_THAT(of(8, 2, 2, 0).leaves, ElementsAre(0, 2));
  EXPECT_THAT(of(8, 2, 2, 3).leaves, ElementsAre(5, 7));
  EXPECT_THAT(of(12, 2, 2, 3).leaves, ElementsAre(9, 11));  // a node of twelve splits at eight
  EXPECT_EQ(of(12, 2, 2, 3).rounds, 2);
  EXPECT_EQ(of(12, 2, 2, 0).rounds, 4);
}

TEST(Assignment, EveryMicroBatchIsComputedOnce) {
  for (const int64_t v : {8, 12, 16, 20, 24}) {
    for (const auto& [rows, columns] : std::vector<std::pair<int, int>>{
             {1, 1}, {1, 2}, {1, 3}, {1, 8}, {2, 2}, {4, 2}, {2, 1}, {8, 1}, {2, 3}}) {
      if (v < 2 * rows * columns && rows > 1) continue;
      std::vector<int> times(static_cast<size_t>(v), 0);
      for (int rank = 0; rank < rows * columns; ++rank)
        for (const int64_t leaf : of(v, rows, columns, rank).leaves)
          ++times[static_cast<size_t>(leaf)];
      EXPECT_THAT(times, ::testing::Each(1)) << v << " on " << rows << " x " << columns;
    }
  }
}

TEST(Assignment, TooFewMicroBatchesAreRefused) {
  EXPECT_THAT(
      [] { of(3, 1, 4, 0); },
      ThrowsMessage<UsageError>(HasSubstr("3 micro-batches a step are too few for 4 ranks")));
  // A node of nine splits at eight, so that the second row gets one.
  EXPECT_THAT([] { of(9, 2, 2, 0); },
              ThrowsMessage<UsageError>(HasSubstr("leave row 1 of 2 with 1 for its 2 ranks")));
}

}  // namespace
}  // namespace lockstep::fsdp
