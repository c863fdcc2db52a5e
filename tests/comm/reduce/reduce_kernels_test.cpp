#include "comm/reduce/reduce_kernels.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/conformance/reference.h"

namespace lockstep::comm {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// `ranks` vectors of the suite's values, reduced into the first.
template <typename T>
std::vector<T> reduce_values(ReduceOp op, int ranks, int64_t n) {
  std::vector<std::vector<T>> data;
  std::vector<const void*> sources;
  for (int r = 0; r < ranks; ++r) data.push_back(test::values<T>(r, n));
  for (const auto& d : data) sources.push_back(d.data());
  void* out = data[0].data();
  const ReduceTree tree(ranks);
  reduce_in_order(dtype_of<T>(), op, tree.steps(), sources, {&out, 1}, n);
  return data[0];
}

TEST(ReduceKernels, KeepTheTreesOrderForAnyNumberOfSources) {
  for (const int ranks : {1, 2, 3, 5, 8, 13})
    for (const int64_t n : {0, 1, 15, 511, 512, 513, 2000}) {
      EXPECT_EQ(reduce_values<float>(ReduceOp::sum, ranks, n),
                test::reduced<float>(ReduceOp::sum, ranks, 0, n))
          << ranks << " of " << n;
      EXPECT_EQ(reduce_values<BFloat16>(ReduceOp::sum, ranks, n),
                test::reduced<BFloat16>(ReduceOp::sum, ranks, 0, n));
      EXPECT_EQ(reduce_values<int64_t>(ReduceOp::bxor, ranks, n),
                test::reduced<int64_t>(ReduceOp::bxor, ranks, 0, n));
    }
}

// Of 8 leaves the first rank holds 4, so the other two come together first.
template <typename T>
void expect_the_right_pair_first(float large) {
  const ReduceTree tree(8, 3);
  const std::vector<T> left(600, T(large)), right(600, T(1.0f));
  std::vector<T> sum(600);
  const std::vector<const void*> sources{left.data(), right.data(), right.data()};
  void* out = sum.data();
  reduce_in_order(dtype_of<T>(), ReduceOp::sum, tree.steps(), sources, {&out, 1}, 600);
  for (const T value : sum) ASSERT_EQ(static_cast<float>(value), large + 2);
}

TEST(ReduceKernels, ARightHalfMayBeASumAlready) {
  expect_the_right_pair_first<float>(1 << 24);  // to which no 1 can be added in f32
  expect_the_right_pair_first<BFloat16>(256);
}

TEST(ReduceKernels, SumsOfHalvesAreRoundedOnce) {
  // 256 + 1 + 1 + … : in bf16 each 1 would be lost, in f32 none is.
  std::vector<BFloat16> big{BFloat16(256)}, one{BFloat16(1)};
  const std::vector<const void*> sources{big.data(), one.data(), one.data(), one.data()};
  BFloat16 out;
  void* target = &out;
  reduce_in_order(DType::bf16, ReduceOp::sum, ReduceTree(4).steps(), sources, {&target, 1}, 1);
  EXPECT_EQ(static_cast<float>(out), static_cast<float>(BFloat16(259)));
  EXPECT_NE(static_cast<float>(out), 256);
}

TEST(ReduceKernels, ANaNStaysANaN) {
  for (const auto op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max})
    for (const bool first : {true, false}) {
      const float a = first ? kNaN : 1, b = first ? 1 : kNaN;
      const std::vector<const void*> sources{&a, &b};
      float out = 0;
      void* target = &out;
      reduce_in_order(DType::f32, op, ReduceTree(2).steps(), sources, {&target, 1}, 1);
      EXPECT_TRUE(std::isnan(out)) << name_of(op);
    }
}

TEST(ReduceKernels, WriteTheSameValuesToEveryOut) {
  const auto a = test::values<float>(0, 1000), b = test::values<float>(1, 1000);
  std::vector<float> x(1000), y(1000);
  const std::vector<const void*> sources{a.data(), b.data()};
  const std::vector<void*> outs{x.data(), y.data()};
  reduce_in_order(DType::f32, ReduceOp::sum, ReduceTree(2).steps(), sources, outs, 1000);
  EXPECT_EQ(x, test::reduced<float>(ReduceOp::sum, 2, 0, 1000));
  EXPECT_EQ(x, y);
}

TEST(ReduceKernels, IntegerSumsWrapAround) {
  const int32_t a = std::numeric_limits<int32_t>::max(), b = 1;
  const std::vector<const void*> sources{&a, &b};
  int32_t out = 0;
  void* target = &out;
  reduce_in_order(DType::i32, ReduceOp::sum, ReduceTree(2).steps(), sources, {&target, 1}, 1);
  EXPECT_EQ(out, std::numeric_limits<int32_t>::min());
}

TEST(ReduceKernels, PartsCoverEverythingOnce) {
  for (const int64_t count : {0, 1, 63, 64, 65, 1000, 70001})
    for (const int parts : {1, 2, 3, 8}) {
      int64_t at = 0;
      for (int i = 0; i < parts; ++i) {
        EXPECT_EQ(part_of(count, parts, i).begin, at);
        at = part_of(count, parts, i).end;
      }
      EXPECT_EQ(at, count);
    }
}

TEST(ReduceKernels, BitOperationsNeedIntegers) {
  EXPECT_THROW(check_reducible(DType::f32, ReduceOp::band), UsageError);
  EXPECT_NO_THROW(check_reducible(DType::boolean, ReduceOp::bxor));
}

}  // namespace
}  // namespace lockstep::comm
