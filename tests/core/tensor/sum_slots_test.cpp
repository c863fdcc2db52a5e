#include "core/tensor/sum_slots.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "core/base/sum_tree.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// Adding is commutative: the lower terms are written first.
std::string added(const std::string& a, const std::string& b) {
  const auto first = [](const std::string& sum) {
    return std::stoi(sum.substr(sum.find_first_not_of('(')));
  };
  return first(a) < first(b) ? str("(", a, "+", b, ")") : str("(", b, "+", a, ")");
}

// The tree as text, with its own rule for where a node splits.
std::string written_out(int64_t first, int64_t n) {
  if (n == 1) return std::to_string(first);
  int64_t left = 1;
  while (left * 2 < n) left *= 2;
  return added(written_out(first, left), written_out(first + left, n - left));
}

struct Summed {
  std::string total;
  int slots = 0;  // how many are used
};

// `unknown`: only the last term says how many there are.
Summed summed(const std::vector<int64_t>& order, bool unknown = false) {
  Summed result;
  SumSlots slots;
  std::map<int, std::string> sums;
  const auto terms = static_cast<int64_t>(order.size());
  for (int64_t k = 0; k < terms; ++k) {
    const int64_t i = order[static_cast<size_t>(k)];
    const auto place = slots.place(i, unknown && k + 1 < terms ? SumSlots::kUnknown : terms);
    std::string sum = std::to_string(i);
    for (const int slot : place.slots) {
      EXPECT_NE(slot, place.slot);
      sum = added(sums.at(slot), sum);
    }
    EXPECT_EQ(place.slot == SumSlots::kTotal, k + 1 == terms);
    (place.slot == SumSlots::kTotal ? result.total : sums[place.slot]) = sum;
    slots.take(place);
  }
  result.slots = static_cast<int>(sums.size());
  return result;
}

std::vector<int64_t> in_order(int64_t terms) {
  std::vector<int64_t> order(static_cast<size_t>(terms));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

TEST(SumSlots, TermsInOrderUseTheFewestSlots) {
  for (int64_t n = 1; n <= 70; ++n)
    for (const bool unknown : {false, true}) {
      const Summed sum = summed(in_order(n), unknown);
      EXPECT_EQ(sum.total, written_out(0, n));
      EXPECT_EQ(sum.slots, sum_tree::level_count(n)) << n;
    }
}

TEST(SumSlots, NoOrderOfTermsChangesTheTree) {
  std::mt19937_64 engine(5);
  for (int64_t n = 1; n <= 40; ++n) {
    auto order = in_order(n);
    std::reverse(order.begin(), order.end());
    EXPECT_EQ(summed(order).total, written_out(0, n)) << "last first";
    EXPECT_LE(summed(order).slots, sum_tree::level_count(n)) << n;
    for (int i = 0; i < 20; ++i) {
      std::shuffle(order.begin(), order.end(), engine);
      EXPECT_EQ(summed(order).total, written_out(0, n));
    }
  }
}

TEST(SumSlots, ATermComesOnceASum) {
  SumSlots slots;
  for (const int64_t i : {2, 3, 0}) slots.take(slots.place(i, 5));
  EXPECT_EQ(slots.next(), 1);
  EXPECT_FALSE(slots.has(1));
  EXPECT_FALSE(slots.has(4));
  for (const int64_t i : {2, 3, 0}) EXPECT_TRUE(slots.has(i));
  for (const int64_t i : {2, 3, 0})
    EXPECT_THAT([&] { slots.place(i, 5); },
                ThrowsMessage<UsageError>(HasSubstr("was added before")));
  EXPECT_THAT([&] { slots.place(5, 5); }, ThrowsMessage<UsageError>(HasSubstr("no term 5 of 5")));
  // A place that is not taken changes nothing.
  EXPECT_EQ(slots.place(1, 5).slot, slots.place(1, 5).slot);
  slots.clear();
  EXPECT_EQ(slots.place(2, 5).slot, 0);
}

}  // namespace
}  // namespace lockstep
