#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

template <typename T>
StridedView view(std::vector<T>& x, Shape shape, Shape strides, int64_t offset = 0) {
  return {x.data() + offset, dtype_of<T>(), shape, strides};
}
template <typename T>
StridedView dense(std::vector<T>& x, Shape shape) {
  return view(x, shape, shape.contiguous_strides());
}

TEST(Copy, TransposesAndSlices) {
  std::vector<float> x(6), y(6);
  for (size_t i = 0; i < 6; ++i) x[i] = static_cast<float>(i);
  k().copy(queue(), dense(y, {3, 2}), view(x, {3, 2}, {1, 3}));
  EXPECT_EQ(y, (std::vector<float>{0, 3, 1, 4, 2, 5}));
  std::vector<float> column(2, -1.0f);
  k().copy(queue(), dense(column, {2}), view(x, {2}, {3}, 1));
  EXPECT_EQ(column, (std::vector<float>{1, 4}));
}

TEST(Copy, RepeatsAlongZeroStridesAndMissingDimensions) {
  std::vector<int32_t> x = {1, 2, 3}, y(6);
  k().copy(queue(), dense(y, {2, 3}), view(x, {2, 3}, {0, 1}));
  EXPECT_EQ(y, (std::vector<int32_t>{1, 2, 3, 1, 2, 3}));
  std::fill(y.begin(), y.end(), 0);
  k().copy(queue(), dense(y, {2, 3}), dense(x, {3}));
  EXPECT_EQ(y, (std::vector<int32_t>{1, 2, 3, 1, 2, 3}));
  k().copy(queue(), dense(y, {3, 2}), dense(x, {3, 1}));
  EXPECT_EQ(y, (std::vector<int32_t>{1, 1, 2, 2, 3, 3}));
}

TEST(Copy, WritesIntoASliceAndNothingElse) {
  std::vector<float> x = {1, 2, 3, 4}, y(12, 9.0f);
  k().copy(queue(), view(y, {2, 2}, {6, 2}, 1), dense(x, {2, 2}));
  EXPECT_EQ(y, (std::vector<float>{9, 1, 9, 2, 9, 9, 9, 3, 9, 4, 9, 9}));
}

TEST(Copy, ConvertsDtypes) {
  std::vector<float> x = {1.5f, -2.25f, 0.0f, 300.0f};
  std::vector<BFloat16> h(4);
  std::vector<Float16> f16(4);
  std::vector<int64_t> i64(4);
  std::vector<uint8_t> b(4, 7);
  std::vector<float> back(4);
  k().copy(queue(), dense(h, {4}), dense(x, {4}));
  k().copy(queue(), dense(back, {4}), dense(h, {4}));
  EXPECT_EQ(back, x);
  k().copy(queue(), dense(f16, {4}), dense(h, {4}));
  k().copy(queue(), dense(i64, {4}), dense(f16, {4}));
  EXPECT_EQ(i64, (std::vector<int64_t>{1, -2, 0, 300}));
  k().copy(queue(), {b.data(), DType::boolean, {4}, {1}}, dense(x, {4}));
  EXPECT_EQ(b, (std::vector<uint8_t>{1, 1, 0, 1}));
}

TEST(Copy, RoundsToBfloat16AsTheStorageTypeDoes) {
  auto x = random<float>(1001, 1, -3.0f, 3.0f);
  x[3] = NAN;
  x[4] = INFINITY;
  std::vector<BFloat16> y(x.size());
  k().copy(queue(), dense(y, {1001}), dense(x, {1001}));
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i].bits, BFloat16(x[i]).bits) << x[i];
}

TEST(Copy, EmptyAndScalar) {
  std::vector<float> x = {5.0f}, y = {0.0f};
  k().copy(queue(), dense(y, {0, 3}), dense(x, {0, 3}));
  EXPECT_EQ(y[0], 0.0f);
  k().copy(queue(), dense(y, {}), dense(x, {}));
  EXPECT_EQ(y[0], 5.0f);
}

TEST(Fill, DenseAndStrided) {
  std::vector<float> x(6, 0.0f);
  k().fill(queue(), dense(x, {6}), 2.5);
  EXPECT_EQ(x, std::vector<float>(6, 2.5f));
  k().fill(queue(), view(x, {3}, {2}), -1.0);
  EXPECT_EQ(x, (std::vector<float>{-1, 2.5, -1, 2.5, -1, 2.5}));
  std::vector<int64_t> i(3);
  k().fill(queue(), dense(i, {3}), 7);
  EXPECT_EQ(i, std::vector<int64_t>(3, 7));
}

template <typename T>
void check_broadcast(int64_t rows, int64_t n) {
  auto a = random<T>(rows * n, 1, 0.5f, 2.0f), b = random<T>(n, 2, 0.5f, 2.0f),
       c = random<T>(rows, 3, 0.5f, 2.0f);
  std::vector<T> y(a.size());
  std::vector<double> sum, quotient;
  for (int64_t i = 0; i < rows * n; ++i) {
    const double x = static_cast<float>(a[static_cast<size_t>(i)]);
    sum.push_back(x + static_cast<float>(b[static_cast<size_t>(i % n)]));
    quotient.push_back(x / static_cast<float>(c[static_cast<size_t>(i / n)]));
  }
  k().binary(queue(), BinaryOp::add, dense(y, {rows, n}), dense(a, {rows, n}), dense(b, {n}));
  expect_near(y, sum, rounding<T>());
  k().binary(queue(), BinaryOp::div, dense(y, {rows, n}), dense(a, {rows, n}),
             view(c, {rows, n}, {1, 0}));
  expect_near(y, quotient, rounding<T>());
}

TEST(Binary, BroadcastsRowsAndColumns) {
  for (auto [rows, n] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {17, 33}, {2, 40000}}) {
    check_broadcast<float>(rows, n);
    check_broadcast<BFloat16>(rows, n);
    check_broadcast<Float16>(rows, n);
  }
}

TEST(Binary, EveryOpOnFloatsAndIntegers) {
  std::vector<float> a = {1, -2, 3, 4}, b = {2, -2, -1, 0.5f}, y(4);
  std::vector<int32_t> ia = {7, -7, 3, 0}, ib = {2, 2, 3, 5}, iy(4);
  const auto f = [&](BinaryOp op) {
    k().binary(queue(), op, dense(y, {4}), dense(a, {4}), dense(b, {4}));
    return y;
  };
  const auto i = [&](BinaryOp op) {
    k().binary(queue(), op, dense(iy, {4}), dense(ia, {4}), dense(ib, {4}));
    return iy;
  };
  EXPECT_EQ(f(BinaryOp::add), (std::vector<float>{3, -4, 2, 4.5}));
  EXPECT_EQ(f(BinaryOp::sub), (std::vector<float>{-1, 0, 4, 3.5}));
  EXPECT_EQ(f(BinaryOp::mul), (std::vector<float>{2, 4, -3, 2}));
  EXPECT_EQ(f(BinaryOp::div), (std::vector<float>{0.5, 1, -3, 8}));
  EXPECT_EQ(f(BinaryOp::maximum), (std::vector<float>{2, -2, 3, 4}));
  EXPECT_EQ(f(BinaryOp::minimum), (std::vector<float>{1, -2, -1, 0.5}));
  EXPECT_EQ(i(BinaryOp::add), (std::vector<int32_t>{9, -5, 6, 5}));
  EXPECT_EQ(i(BinaryOp::div), (std::vector<int32_t>{3, -3, 1, 0}));
  EXPECT_EQ(i(BinaryOp::maximum), (std::vector<int32_t>{7, 2, 3, 5}));
}

TEST(Binary, ComparisonsWriteBool) {
  std::vector<float> a = {1, 2, 3}, b = {2, 2, 2};
  std::vector<uint8_t> y(3);
  const StridedView out{y.data(), DType::boolean, {3}, {1}};
  k().binary(queue(), BinaryOp::less, out, dense(a, {3}), dense(b, {3}));
  EXPECT_EQ(y, (std::vector<uint8_t>{1, 0, 0}));
  k().binary(queue(), BinaryOp::equal, out, dense(a, {3}), dense(b, {3}));
  EXPECT_EQ(y, (std::vector<uint8_t>{0, 1, 0}));
  std::vector<int64_t> ia = {1, 2, 3}, ib = {2, 2, 2};
  k().binary(queue(), BinaryOp::greater, out, dense(ia, {3}), dense(ib, {3}));
  EXPECT_EQ(y, (std::vector<uint8_t>{0, 0, 1}));
}

TEST(Binary, WrongDtypesAreNamed) {
  std::vector<float> a(2);
  std::vector<int32_t> b(2, 0);
  EXPECT_THROW(k().binary(queue(), BinaryOp::add, dense(a, {2}), dense(a, {2}), dense(b, {2})),
               UsageError);
  EXPECT_THROW(k().binary(queue(), BinaryOp::equal, dense(a, {2}), dense(a, {2}), dense(a, {2})),
               UsageError);
  EXPECT_THROW(k().binary(queue(), BinaryOp::div, dense(b, {2}), dense(b, {2}), dense(b, {2})),
               UsageError);
}

TEST(Strided, NumberOfThreadsDoesNotChangeTheBits) {
  auto a = random<float>(300 * 301, 1), b = random<float>(301, 2);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(a.size());
    k().copy(queue(), dense(y, {301, 300}), view(a, {301, 300}, {1, 301}));
    k().binary(queue(), BinaryOp::mul, dense(y, {300, 301}), dense(y, {300, 301}), dense(b, {301}));
    return y;
  });
}

}  // namespace
}  // namespace lockstep::testing
