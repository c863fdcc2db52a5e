#include "core/tensor/binary_counter.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

constexpr int64_t kNumel = 5;

// Terms of very different sizes, whose sum depends on the order.
float value(int64_t term, int64_t element) {
  const float sizes[] = {1e8f, 1.0f, -1e8f, 3e-3f, 7.7e4f};
  return sizes[(term + element) % 5] * (1.0f + 0.01f * static_cast<float>(term));
}

// The tree with its own rule for where a node splits.
float expected(int64_t first, int64_t n, int64_t element) {
  if (n == 1) return value(first, element);
  int64_t left = 1;
  while (left * 2 < n) left *= 2;
  return expected(first, left, element) + expected(first + left, n - left, element);
}

struct Summed {
  std::vector<float> total;
  int levels = 0;
};

// `parts`: folds the elements in so many parts, as they become final. `turned`: the last term comes
// first.
Summed summed(int64_t terms, int64_t parts, bool turned = false) {
  Summed result;
  BinaryCounter counter([&] {
    ++result.levels;
    return Tensor::zeros({kNumel});
  });
  const Tensor total = Tensor::zeros({kNumel});
  SumSlots slots;
  for (int round = 0; round < 2; ++round) {  // the second sum uses the memory of the first
    for (int64_t k = 0; k < terms; ++k) {
      const int64_t i = turned ? terms - 1 - k : k;
      const SumSlots::Place place = slots.place(i, terms);
      const bool last = k + 1 == terms;
      const Tensor level = counter.target(place);
      EXPECT_EQ(level.defined(), !last);
      const Tensor term = last ? total : level;
      for (int64_t e = 0; e < kNumel; ++e) term.data<float>()[e] = value(i, e);
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t begin = kNumel * p / parts, end = kNumel * (p + 1) / parts;
        counter.fold(term.narrow(0, begin, end - begin), place, begin);
      }
      slots.take(place);
    }
  }
  result.total = total.to_vector<float>();
  return result;
}

TEST(BinaryCounter, AddsInTheOrderOfTheTree) {
  for (int64_t terms = 1; terms <= 33; ++terms) {
    for (const auto& [parts, turned] :
         {std::pair<int64_t, bool>{1, false}, {2, false}, {1, true}}) {
      const Summed sum = summed(terms, parts, turned);
      for (int64_t e = 0; e < kNumel; ++e) {
        const float want = expected(0, terms, e);
        EXPECT_EQ(std::memcmp(&want, &sum.total[static_cast<size_t>(e)], sizeof want), 0)
            << terms << " terms in " << parts << " parts, element " << e << ", turned " << turned;
      }
    }
  }
}

TEST(BinaryCounter, MakesASlotForEachPowerOfTwoThatItKeeps) {
  EXPECT_EQ(summed(1, 1).levels, 0);
  EXPECT_EQ(summed(2, 1).levels, 1);
  EXPECT_EQ(summed(4, 1).levels, 2);
  EXPECT_EQ(summed(5, 1).levels, 3);
  EXPECT_EQ(summed(8, 1).levels, 3);
}

}  // namespace
}  // namespace lockstep
