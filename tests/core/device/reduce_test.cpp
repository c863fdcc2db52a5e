#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

template <typename T>
void check_reduce(int64_t outer, int64_t n, int64_t inner) {
  SCOPED_TRACE(str(outer, "x", n, "x", inner, " ", dtype_of<T>()));
  const auto x = random<T>(outer * n * inner, 1);
  for (ReduceKind kind : {ReduceKind::sum, ReduceKind::mean, ReduceKind::max, ReduceKind::min}) {
    std::vector<T> y(static_cast<size_t>(outer * inner));
    std::vector<double> want;
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < inner; ++i) {
        double value = kind == ReduceKind::max   ? -INFINITY
                       : kind == ReduceKind::min ? INFINITY
                                                 : 0.0;
        for (int64_t j = 0; j < n; ++j) {
          const double v = static_cast<float>(x[static_cast<size_t>((o * n + j) * inner + i)]);
          value = kind == ReduceKind::max   ? std::max(value, v)
                  : kind == ReduceKind::min ? std::min(value, v)
                                            : value + v;
        }
        want.push_back(kind == ReduceKind::mean ? value / static_cast<double>(n) : value);
      }
    k().reduce(queue(), kind, dtype_of<T>(), outer, n, inner, x.data(), y.data());
    expect_near(y, want, rounding<T>() + 1e-6, std::sqrt(static_cast<double>(n)));
  }
}

TEST(Reduce, EveryKindAlongAnyAxis) {
  for (auto [outer, n, inner] : {std::array<int64_t, 3>{1, 1, 1},
                                 {3, 7, 1},
                                 {1, 30001, 1},
                                 {5, 33, 9},
                                 {2, 1100, 3},
                                 {1, 3, 700},
                                 {200, 2, 1}}) {
    check_reduce<float>(outer, n, inner);
    check_reduce<BFloat16>(outer, n, inner);
  }
}

TEST(Reduce, IntegersAreExact) {
  std::vector<int64_t> x = {1, int64_t{1} << 60, 3, -4, 5, 6}, y(2);
  k().reduce(queue(), ReduceKind::sum, DType::i64, 2, 3, 1, x.data(), y.data());
  EXPECT_EQ(y, (std::vector<int64_t>{4 + (int64_t{1} << 60), 7}));
  k().reduce(queue(), ReduceKind::min, DType::i64, 1, 3, 2, x.data(), y.data());
  EXPECT_EQ(y, (std::vector<int64_t>{1, -4}));
}

TEST(Reduce, NanIsNotLost) {
  for (int64_t n : {1, 5, 100}) {
    std::vector<float> x(static_cast<size_t>(n), 1.0f), y(1);
    x.back() = NAN;
    for (ReduceKind kind : {ReduceKind::sum, ReduceKind::mean, ReduceKind::max, ReduceKind::min}) {
      k().reduce(queue(), kind, DType::f32, 1, n, 1, x.data(), y.data());
      EXPECT_TRUE(std::isnan(y[0])) << n << " kind " << static_cast<int>(kind);
    }
  }
}

TEST(Argmax, FirstOfTheLargest) {
  const std::vector<float> x = {1, 3, 3, 2, -5, -1, -1, -2};
  std::vector<int64_t> y(2);
  k().argmax(queue(), DType::f32, 2, 4, x.data(), y.data());
  EXPECT_EQ(y, (std::vector<int64_t>{1, 1}));
}

template <typename T>
std::vector<double> square_sums(const std::vector<T>& x, int64_t first = 0) {
  const int64_t n = static_cast<int64_t>(x.size()) - first;
  std::vector<double> sums(static_cast<size_t>((n + kSquareBlock - 1) / kSquareBlock));
  k().square_sums(queue(), dtype_of<T>(), n, x.data() + first, sums.data());
  return sums;
}

template <typename T>
void check_square_sums(int64_t n) {
  const auto x = random<T>(n, 1);
  const auto sums = square_sums(x);
  for (size_t b = 0; b < sums.size(); ++b) {
    double want = 0.0;
    for (int64_t i = static_cast<int64_t>(b) * kSquareBlock;
         i < std::min(n, static_cast<int64_t>(b + 1) * kSquareBlock); ++i)
      want += static_cast<double>(static_cast<float>(x[static_cast<size_t>(i)])) *
              static_cast<float>(x[static_cast<size_t>(i)]);
    EXPECT_NEAR(sums[b], want, 1e-12 * (want + 1));
  }
}

TEST(SquareSums, MatchDoubleAndDoNotOverflow) {
  for (int64_t n : {0, 1, 13, 1024, 1025, 100003}) {
    check_square_sums<float>(n);
    check_square_sums<BFloat16>(n);
  }
  EXPECT_NEAR(square_sums(std::vector<float>(10, 1e30f))[0] / 1e61, 1.0, 1e-6);
}

TEST(SquareSums, ABlockHasTheSameBitsWhereverItLies) {
  const auto x = random<float>(20 * kSquareBlock + 77, 1);
  const auto whole = square_sums(x);
  for (int64_t block : {1, 7, 20}) {
    const auto tail = square_sums(x, block * kSquareBlock);
    EXPECT_EQ(tail, std::vector<double>(whole.begin() + block, whole.end()));
  }
}

template <typename T>
void check_sum_rows(int64_t rows, int64_t n) {
  const auto dy = random<T>(rows * n, 1);
  auto db = random<float>(n, 2);
  std::vector<double> want(db.begin(), db.end());
  for (int64_t i = 0; i < rows * n; ++i)
    want[static_cast<size_t>(i % n)] += static_cast<float>(dy[static_cast<size_t>(i)]);
  k().sum_rows(queue(), dtype_of<T>(), rows, n, dy.data(), db.data(), true);
  expect_near(db, want, 1e-6, std::sqrt(static_cast<double>(rows)));
}

TEST(SumRows, AddsToWhatIsThere) {
  for (auto [rows, n] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {1030, 100}, {600, 5}, {2, 300}}) {
    check_sum_rows<float>(rows, n);
    check_sum_rows<BFloat16>(rows, n);
  }
}

TEST(Reduce, NumberOfThreadsDoesNotChangeTheBits) {
  const auto x = random<float>(7 * 20011, 1);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(20011 + 7 + 1);
    std::vector<double> out;
    k().reduce(queue(), ReduceKind::sum, DType::f32, 7, 20011, 1, x.data(), y.data());
    out.insert(out.end(), y.begin(), y.end());
    k().reduce(queue(), ReduceKind::sum, DType::f32, 1, 7, 20011, x.data(), y.data());
    out.insert(out.end(), y.begin(), y.end());
    k().sum_rows(queue(), DType::f32, 20011, 7, x.data(), y.data(), false);
    out.insert(out.end(), y.begin(), y.end());
    const auto squares = square_sums(x);
    out.insert(out.end(), squares.begin(), squares.end());
    return out;
  });
}

}  // namespace
}  // namespace lockstep::testing
