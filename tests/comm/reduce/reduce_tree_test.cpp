#include "comm/reduce/reduce_tree.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/conformance/reference.h"

namespace lockstep::comm {
namespace {

float sum_of_leaves(int64_t first, int64_t count) {
  return test::tree_value<float>(ReduceOp::sum, first, count, 0);
}

// The smallest possible largest block, by trying everything.
int64_t best_largest_block(int64_t leaves, int ranks) {
  if (ranks == 1) return leaves;
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(leaves - 1)));
  int64_t best = leaves;
  for (int on_left = 1; on_left < ranks; ++on_left)
    if (on_left <= left && ranks - on_left <= leaves - left)
      best = std::min(best, std::max(best_largest_block(left, on_left),
                                     best_largest_block(leaves - left, ranks - on_left)));
  return best;
}

TEST(ReduceTree, AnyNumberOfRanksSumsToTheBitsOfOne) {
  for (int64_t leaves = 1; leaves <= 32; ++leaves) {
    const float total = sum_of_leaves(0, leaves);
    for (int ranks = 1; ranks <= leaves; ++ranks) {
      const ReduceTree tree(leaves, ranks);
      std::vector<float> value;
      for (int r = 0; r < ranks; ++r)
        value.push_back(sum_of_leaves(tree.begin(r), tree.begin(r + 1) - tree.begin(r)));
      for (const auto [left, right] : tree.steps())
        value[static_cast<size_t>(left)] += value[static_cast<size_t>(right)];
      EXPECT_EQ(std::bit_cast<uint32_t>(value[0]), std::bit_cast<uint32_t>(total))
          << leaves << " leaves on " << ranks << " ranks";
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
      EXPECT_EQ(largest, best_largest_block(leaves, ranks))
          << leaves << " leaves on " << ranks << " ranks";
    }
  }
}

// The cut that a search through all of them finds first: the bits of every run depend on it.
std::vector<int64_t> first_best_blocks(int64_t first, int64_t leaves, int ranks,
                                       std::map<std::pair<int64_t, int>, int64_t>& known) {
  const std::function<int64_t(int64_t, int)> best = [&](int64_t n, int r) {
    if (r == 1) return n;
    if (const auto found = known.find({n, r}); found != known.end()) return found->second;
    const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n - 1)));
    int64_t smallest = n;
    for (int l = 1; l < r; ++l)
      if (l <= left && r - l <= n - left)
        smallest = std::min(smallest, std::max(best(left, l), best(n - left, r - l)));
    return known[{n, r}] = smallest;
  };
  if (ranks == 1) return {first};
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(leaves - 1)));
  for (int l = 1; l < ranks; ++l) {
    if (l > left || ranks - l > leaves - left ||
        std::max(best(left, l), best(leaves - left, ranks - l)) > best(leaves, ranks))
      continue;
    auto blocks = first_best_blocks(first, left, l, known);
    const auto right = first_best_blocks(first + left, leaves - left, ranks - l, known);
    blocks.insert(blocks.end(), right.begin(), right.end());
    return blocks;
  }
  return {};
}

TEST(ReduceTree, CutsAreThoseOfASearchThroughAll) {
  std::map<std::pair<int64_t, int>, int64_t> known;
  for (int64_t leaves = 1; leaves <= 140; ++leaves) {
    for (int ranks = 1; ranks <= leaves; ++ranks) {
      const ReduceTree tree(leaves, ranks);
      std::vector<int64_t> begins;
      for (int r = 0; r < ranks; ++r) begins.push_back(tree.begin(r));
      ASSERT_EQ(begins, first_best_blocks(0, leaves, ranks, known))
          << leaves << " leaves on " << ranks << " ranks";
    }
  }
}

TEST(ReduceTree, PairsNeighboursFirst) {
  const ReduceTree tree(4);
  ASSERT_EQ(tree.steps().size(), 3u);
  const auto is = [](const ReduceTree::Step& s, int left, int right) {
    return s.left == left && s.right == right;
  };
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
  // A search through all cuts took 14 s for the largest of these; its digests.
  EXPECT_EQ(ReduceTree(65536, 1024).digest(), 0x5fec31686423068bu);
  EXPECT_EQ(ReduceTree(65535, 1024).digest(), 0xc26753aa09ae68fau);
  EXPECT_EQ(ReduceTree(1000000, 1024).digest(), 0xa9aefbb838596068u);
  EXPECT_EQ(ReduceTree(65535, 4096).digest(), 0x2a04b120ed4aed60u);
  EXPECT_THROW(ReduceTree(3, 4), UsageError);
  EXPECT_THROW(ReduceTree(0, 1), UsageError);
  EXPECT_THROW(ReduceTree(4, 0), UsageError);
}

}  // namespace
}  // namespace lockstep::comm
