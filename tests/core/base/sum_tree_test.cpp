#include "core/base/sum_tree.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace lockstep {
namespace {

std::string added(const std::string& left, const std::string& right) {
  return str("(", left, "+", right, ")");
}

// The tree as text, with its own rule for where a node splits: every pair of brackets is one sum.
std::string written_out(int64_t first, int64_t n) {
  if (n == 1) return std::to_string(first);
  int64_t left = 1;
  while (left * 2 < n) left *= 2;
  return added(written_out(first, left), written_out(first + left, n - left));
}

constexpr int64_t kMost = 70;

TEST(SumTree, SevenTermsAreBracketedAsTheHeaderSays) {
  EXPECT_EQ(written_out(0, 7), "(((0+1)+(2+3))+((4+5)+6))");
}

std::string from_the_top(int64_t first, int64_t n) {
  if (n == 1) return std::to_string(first);
  const int64_t left = sum_tree::split(n);
  return added(from_the_top(first, left), from_the_top(first + left, n - left));
}

TEST(SumTree, TopDownIsTheTree) {
  for (int64_t n = 1; n <= kMost; ++n) EXPECT_EQ(from_the_top(0, n), written_out(0, n));
}

TEST(SumTree, SplitsAtTheLargestPowerOfTwoBelow) {
  EXPECT_EQ(sum_tree::split(2), 1);
  EXPECT_EQ(sum_tree::split((int64_t{1} << 40) + 1), int64_t{1} << 40);
  EXPECT_EQ(sum_tree::split(int64_t{1} << 40), int64_t{1} << 39);
  EXPECT_EQ(sum_tree::split(INT64_MAX), int64_t{1} << 62);
}

TEST(SumTree, BottomUpIsTheTree) {
  for (int64_t n = 1; n <= kMost; ++n) {
    std::vector<std::string> terms;
    for (int64_t i = 0; i < n; ++i) terms.push_back(std::to_string(i));
    EXPECT_EQ(sum_tree::combine(terms.data(), n, added), written_out(0, n));
  }
}

TEST(SumTree, CountsTheDigitsOfABinaryCounter) {
  const int want[] = {0, 0, 1, 2, 2, 3, 3, 3, 3, 4};
  for (int64_t n = 0; n < 10; ++n) EXPECT_EQ(sum_tree::level_count(n), want[n]) << n;
}

}  // namespace
}  // namespace lockstep
