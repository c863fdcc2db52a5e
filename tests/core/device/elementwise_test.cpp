#include <functional>

#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

constexpr double kPi = 3.14159265358979323846;

double cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double gelu_tanh(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / kPi) * (x + 0.044715 * x * x * x)));
}

double value(UnaryOp op, double x) {
  switch (op) {
    case UnaryOp::neg: return -x;
    case UnaryOp::exp: return std::exp(x);
    case UnaryOp::log: return std::log(x);
    case UnaryOp::sqrt: return std::sqrt(x);
    case UnaryOp::rsqrt: return 1.0 / std::sqrt(x);
    case UnaryOp::square: return x * x;
    case UnaryOp::abs: return std::abs(x);
    case UnaryOp::tanh: return std::tanh(x);
    case UnaryOp::sigmoid: return sigmoid(x);
    case UnaryOp::relu: return std::max(x, 0.0);
    case UnaryOp::silu: return x * sigmoid(x);
    case UnaryOp::gelu: return x * cdf(x);
    case UnaryOp::gelu_tanh: return gelu_tanh(x);
  }
  return 0.0;
}

double slope(UnaryOp op, double x) {
  if (op == UnaryOp::relu) return x > 0 ? 1.0 : 0.0;
  if (op == UnaryOp::abs) return x > 0 ? 1.0 : -1.0;
  const double h = 1e-5 * std::max(1.0, std::abs(x));
  return (value(op, x + h) - value(op, x - h)) / (2 * h);
}

const UnaryOp kOps[] = {UnaryOp::neg,      UnaryOp::exp,    UnaryOp::log,  UnaryOp::sqrt,
                        UnaryOp::rsqrt,    UnaryOp::square, UnaryOp::abs,  UnaryOp::tanh,
                        UnaryOp::sigmoid,  UnaryOp::relu,   UnaryOp::silu, UnaryOp::gelu,
                        UnaryOp::gelu_tanh};

bool positive_only(UnaryOp op) {
  return op == UnaryOp::log || op == UnaryOp::sqrt || op == UnaryOp::rsqrt;
}

template <typename T>
void check_unary(UnaryOp op, int64_t n) {
  SCOPED_TRACE(str("op ", static_cast<int>(op), " n ", n, " ", dtype_of<T>()));
  const auto x = random<T>(n, 1, positive_only(op) ? 0.1f : -6.0f, 6.0f);
  const auto dy = random<T>(n, 2);
  auto dx = random<T>(n, 3);
  std::vector<T> y(x.size());
  std::vector<double> want, want_dx;
  for (size_t i = 0; i < x.size(); ++i) {
    want.push_back(value(op, static_cast<float>(x[i])));
    want_dx.push_back(static_cast<float>(dx[i]) +
                      static_cast<float>(dy[i]) * slope(op, static_cast<float>(x[i])));
  }
  k().unary(queue(), op, dtype_of<T>(), n, x.data(), y.data());
  expect_near(y, want, 1e-6 + rounding<T>());
  k().unary_backward(queue(), op, dtype_of<T>(), n, x.data(), dy.data(), dx.data(), true);
  expect_near(dx, want_dx, 4e-6 + rounding<T>());
}

TEST(Unary, ValuesAndSlopesOfEveryOp) {
  for (UnaryOp op : kOps)
    for (int64_t n : {1, 7, 16, 33, 1000}) {
      check_unary<float>(op, n);
      check_unary<BFloat16>(op, n);
    }
}

// Error against the exact value, in units of the last place of the result (of the smallest normal
// number below that).
double worst_ulp(UnaryOp op, float low, float high) {
  std::vector<float> x, y;
  for (int i = 0; i <= 400000; ++i)
    x.push_back(low + (high - low) * static_cast<float>(i) / 400000.0f);
  y.resize(x.size());
  k().unary(queue(), op, DType::f32, static_cast<int64_t>(x.size()), x.data(), y.data());
  double worst = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = value(op, x[i]);
    const double ulp =
        std::ldexp(1.0, std::max(std::ilogb(std::max(std::abs(want), 1e-45)), -126) - 23);
    worst = std::max(worst, std::abs(y[i] - want) / ulp);
  }
  return worst;
}

TEST(Unary, ElementaryFunctionsAreAccurateToTheLastPlaces) {
  EXPECT_LE(worst_ulp(UnaryOp::exp, -103.0f, 88.7f), 2.0);
  EXPECT_LE(worst_ulp(UnaryOp::exp, -1.0f, 1.0f), 2.0);
  EXPECT_LE(worst_ulp(UnaryOp::tanh, -10.0f, 10.0f), 4.0);
  EXPECT_LE(worst_ulp(UnaryOp::tanh, -1e-3f, 1e-3f), 2.0);
  EXPECT_LE(worst_ulp(UnaryOp::sigmoid, -80.0f, 80.0f), 4.0);
  EXPECT_LE(worst_ulp(UnaryOp::gelu, -1.3f, 8.0f), 8.0);
  // Where 1 + erf would have lost all but two digits.
  EXPECT_LE(worst_ulp(UnaryOp::gelu, -5.0f, -1.3f), 20.0);
}

TEST(Unary, ExtremeInputs) {
  const float inf = INFINITY;
  const std::vector<float> x = {inf, -inf, NAN, 200.0f, -200.0f, 0.0f, -0.0f};
  const auto run = [&](UnaryOp op) {
    std::vector<float> y(x.size());
    k().unary(queue(), op, DType::f32, static_cast<int64_t>(x.size()), x.data(), y.data());
    return y;
  };
  const auto e = run(UnaryOp::exp);
  EXPECT_EQ(e[0], inf);
  EXPECT_EQ(e[1], 0.0f);
  EXPECT_TRUE(std::isnan(e[2]));
  EXPECT_EQ(e[3], inf);
  EXPECT_EQ(e[4], 0.0f);
  EXPECT_EQ(e[5], 1.0f);
  const auto t = run(UnaryOp::tanh);
  EXPECT_EQ(t[0], 1.0f);
  EXPECT_EQ(t[1], -1.0f);
  EXPECT_TRUE(std::isnan(t[2]));
  const auto g = run(UnaryOp::gelu);
  EXPECT_EQ(g[0], inf);
  EXPECT_TRUE(std::isnan(g[2]));
  EXPECT_EQ(g[3], 200.0f);
  EXPECT_EQ(g[4], 0.0f);
  EXPECT_TRUE(std::isnan(run(UnaryOp::relu)[2]));
}

TEST(Unary, AnElementsBitsDoNotDependOnItsPosition) {
  const auto x = random<float>(100, 1, -4.0f, 4.0f);
  std::vector<float> all(100), one(1);
  for (UnaryOp op : kOps) {
    k().unary(queue(), op, DType::f32, 100, x.data(), all.data());
    for (size_t i : {size_t{0}, size_t{50}, size_t{99}}) {
      k().unary(queue(), op, DType::f32, 1, &x[i], one.data());
      EXPECT_EQ(std::memcmp(&one[0], &all[i], sizeof(float)), 0) << "op " << static_cast<int>(op);
    }
  }
}

TEST(Axpby, ScalesAndAdds) {
  for (int64_t n : {1, 31, 70000}) {
    const auto x = random<float>(n, 1);
    auto y = random<float>(n, 2);
    std::vector<double> want;
    for (size_t i = 0; i < x.size(); ++i) want.push_back(2.0 * x[i] - 0.5 * y[i]);
    k().axpby(queue(), DType::f32, n, 2.0f, x.data(), -0.5f, y.data());
    expect_near(y, want, 1e-6);
  }
}

TEST(Axpby, ZeroBetaDoesNotReadTheResult) {
  const std::vector<float> x = {1.0f, 2.0f};
  std::vector<float> y = {NAN, INFINITY};
  k().axpby(queue(), DType::f32, 2, 3.0f, x.data(), 0.0f, y.data());
  EXPECT_EQ(y, (std::vector<float>{3.0f, 6.0f}));
}

TEST(Elementwise, NumberOfThreadsDoesNotChangeTheBits) {
  const int64_t n = 150001;
  const auto x = random<float>(n, 1, -5.0f, 5.0f), dy = random<float>(n, 2);
  for (UnaryOp op : {UnaryOp::gelu, UnaryOp::exp, UnaryOp::log}) {
    expect_same_bits_for_any_threads([&] {
      std::vector<float> y(x.size());
      k().unary(queue(), op, DType::f32, n, x.data(), y.data());
      k().unary_backward(queue(), op, DType::f32, n, x.data(), dy.data(), y.data(), true);
      k().axpby(queue(), DType::f32, n, 0.3f, dy.data(), 0.7f, y.data());
      return y;
    });
  }
}

}  // namespace
}  // namespace lockstep::testing
