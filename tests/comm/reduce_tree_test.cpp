#include "comm/reduce_tree.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/conformance/reference.h"

namespace lockstep::comm {
namespace {

float sum_of_leaves(int64_t first, int64_t count) { return test::tree_value<float>(ReduceOp::sum, first, count, 0); }

// The smallest possible largest block, by trying everything.
int64_t best_largest_block(int64_t leaves, int ranks) {
  if (ranks == 1) return leaves;
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(leaves - 1)));
  int64_t best = leaves;
  for (int on_left = 1; on_left < ranks; ++on_left)
    if (on_left <= left && ranks - on_left <= leaves - left)
      best = std::min(best, std::max(best_largest_block(left, on_left), best_largest_block(leaves - left, ranks - on_left)));
  return best;
}

TEST(ReduceTree, AnyNumberOfRanksSumsToTheBitsOfOne) {
  for (int64_t leaves = 1; leaves <= 32; ++leaves) {
    const float total = sum_of_leaves(0, leaves);
    for (int ranks = 1; ranks <= leaves; ++ranks) {
      const ReduceTree tree(leaves, ranks);
      std::vector<float> value;
      for (int r = 0; r < ranks; ++r) value.push_back(sum_of_leaves(tree.begin(r), tree.begin(r + 1) - tree.begin(r)));
      for (const auto [left, right] : tree.steps()) value[static_cast<size_t>(left)] += value[static_cast<size_t>(right)];
      EXPECT_EQ(std::bit_cast<uint32_t>(value[0]), std::bit_cast<uint32_t>(total)) << leaves << " leaves on " << ranks << " ranks";
    }
  }
}

TEST(ReduceTree, BlocksAreContiguousAndTheLargestIsAsSmallAsCanBe) {
  for (int64_t leaves = 1; leaves <= 20; ++leaves) {
    for (int ranks = 1; ranks <= leaves; ++ranks) {
      const ReduceTree tree(leaves, ranks);
      EXPECT_EQ(tree.ranks(), ranks);
      EXPECT_EQ(tree.leaves(), leaves);
      EXPECT_EQ(tree.begin(0), 0);
      int64_t largest = 0;
      for (int r = 0; r < ranks; ++r) {
        EXPECT_LT(tree.begin(r), tree.begin(r + 1));
        largest = std::max(largest, tree.begin(r + 1) - tree.begin(r));
      }
      EXPECT_EQ(largest, best_largest_block(leaves, ranks)) << leaves << " leaves on " << ranks << " ranks";
    }
  }
}

TEST(ReduceTree, PairsNeighboursFirst) {
  const ReduceTree tree(4);
  ASSERT_EQ(tree.steps().size(), 3u);
  const auto is = [](const ReduceTree::Step& s, int left, int right) { return s.left == left && s.right == right; };
  EXPECT_TRUE(is(tree.steps()[0], 0, 1));
  EXPECT_TRUE(is(tree.steps()[1], 2, 3));
  EXPECT_TRUE(is(tree.steps()[2], 0, 2));
}

TEST(ReduceTree, TheDigestTellsTreesApart) {
  EXPECT_EQ(ReduceTree(12, 4).digest(), ReduceTree(12, 4).digest());
  EXPECT_NE(ReduceTree(12, 4).digest(), ReduceTree(8, 4).digest());
  EXPECT_NE(ReduceTree(4, 4).digest(), ReduceTree(4, 2).digest());
}

TEST(ReduceTree, LargeTreesAreQuickAndRefuseTooManyRanks) {
  const ReduceTree tree(100000, 256);
  EXPECT_EQ(tree.leaves(), 100000);
  EXPECT_THROW(ReduceTree(3, 4), UsageError);
  EXPECT_THROW(ReduceTree(0, 1), UsageError);
  EXPECT_THROW(ReduceTree(4, 0), UsageError);
}

}  // namespace
}  // namespace lockstep::comm
