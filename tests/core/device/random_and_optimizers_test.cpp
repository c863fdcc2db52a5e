#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

const RandomKey kKey{.seed = 0x123456789abcdefu, .step = 3, .micro = 5, .site = 9};

TEST(Uniform, IsThePhiloxStream) {
  std::vector<float> y(1000);
  k().uniform(queue(), 1000, 0.0f, 1.0f, kKey, 0, y.data());
  for (uint32_t i = 0; i < 1000; ++i)
    ASSERT_EQ(y[i], uniform_from_bits(philox(kKey, i / 4)[i % 4])) << i;
}

TEST(Uniform, AShardDrawsWhatTheWholeWouldHaveDrawn) {
  std::vector<float> whole(100000), part(40001);
  k().uniform(queue(), 100000, -2.0f, 3.0f, kKey, 0, whole.data());
  for (int64_t first : {0, 1, 77, 50003}) {
    k().uniform(queue(), 40001, -2.0f, 3.0f, kKey, first, part.data());
    EXPECT_EQ(std::memcmp(part.data(), whole.data() + first, part.size() * sizeof(float)), 0)
        << first;
  }
  k().normal(queue(), 100000, 0.0f, 1.0f, kKey, 0, whole.data());
  for (int64_t first : {1, 77, 50003}) {
    k().normal(queue(), 40001, 0.0f, 1.0f, kKey, first, part.data());
    EXPECT_EQ(std::memcmp(part.data(), whole.data() + first, part.size() * sizeof(float)), 0)
        << first;
  }
}

TEST(Normal, HasTheRightMoments) {
  const int64_t n = 200000;
  std::vector<float> y(static_cast<size_t>(n));
  k().normal(queue(), n, 1.0f, 2.0f, kKey, 0, y.data());
  double mean = 0.0, square = 0.0, fourth = 0.0;
  for (float v : y) mean += v / static_cast<double>(n);
  for (float v : y) square += std::pow((v - mean) / 2.0, 2) / static_cast<double>(n);
  for (float v : y) fourth += std::pow((v - mean) / 2.0, 4) / static_cast<double>(n);
  EXPECT_NEAR(mean, 1.0, 0.02);
  EXPECT_NEAR(square, 1.0, 0.02);
  EXPECT_NEAR(fourth, 3.0, 0.1);
}

template <typename T>
void check_dropout(int64_t n) {
  const std::vector<T> x(static_cast<size_t>(n), T(1.0f));
  std::vector<T> y(x.size()), again(x.size(), T(1.0f));
  k().dropout(queue(), dtype_of<T>(), n, 0.25f, kKey, x.data(), y.data(), false);
  k().dropout(queue(), dtype_of<T>(), n, 0.25f, kKey, x.data(), again.data(), true);
  int64_t kept = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const bool keep = uniform_from_bits(philox(kKey, static_cast<uint32_t>(i / 4))[i % 4]) >= 0.25f;
    kept += keep;
    ASSERT_EQ(static_cast<float>(y[i]), keep ? static_cast<float>(T(1.0f / 0.75f)) : 0.0f) << i;
    ASSERT_NEAR(static_cast<float>(again[i]), 1.0f + static_cast<float>(y[i]), 0.01f) << i;
  }
  if (n > 10000) {
    EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(n), 0.75, 0.02);
  }
}

TEST(Dropout, KeepsThreeOfFourAndScalesThem) {
  for (int64_t n : {1, 100, 70001}) {
    check_dropout<float>(n);
    check_dropout<BFloat16>(n);
  }
}

struct State {
  std::vector<float> param, grad, m, v;
  explicit State(int64_t n)
      : param(random<float>(n, 1)),
        grad(random<float>(n, 2)),
        m(random<float>(n, 3)),
        v(random<float>(n, 4, 0.0f, 1.0f)) {}
};

void check_adam(bool decoupled, int64_t n, int64_t step) {
  State s(n);
  const double lr = 0.1, b1 = 0.9, b2 = 0.95, eps = 1e-8, wd = 0.2, scale = 0.5;
  std::vector<double> want, want_m, want_v;
  for (size_t i = 0; i < s.param.size(); ++i) {
    double p = s.param[i], g = s.grad[i] * scale;
    if (decoupled)
      p *= 1.0 - lr * wd;
    else
      g += wd * p;
    const double m = b1 * s.m[i] + (1 - b1) * g, v = b2 * s.v[i] + (1 - b2) * g * g;
    const double denominator = std::sqrt(v / (1 - std::pow(b2, static_cast<double>(step)))) + eps;
    want.push_back(p - lr * m / (1 - std::pow(b1, static_cast<double>(step))) / denominator);
    want_m.push_back(m);
    want_v.push_back(v);
  }
  k().adamw(queue(), {n, s.param.data(), s.grad.data(), s.m.data(), s.v.data(), 0.1f, 0.9f, 0.95f,
                      1e-8f, 0.2f, decoupled, step, 0.5f});
  expect_near(s.param, want, 3e-6);
  expect_near(s.m, want_m, 1e-6);
  expect_near(s.v, want_v, 1e-6);
}

TEST(Adam, BothKindsOfDecay) {
  for (bool decoupled : {false, true})
    for (int64_t n : {1, 37, 40000}) {
      check_adam(decoupled, n, 1);
      check_adam(decoupled, n, 1000);
    }
}

TEST(Sgd, MomentumNesterovAndFirstStep) {
  for (bool nesterov : {false, true})
    for (bool first : {false, true})
      for (bool momentum : {false, true}) {
        State s(45);
        std::vector<double> want;
        for (size_t i = 0; i < 45; ++i) {
          double g = 0.5 * s.grad[i] + 0.01 * s.param[i];
          if (momentum) {
            const double buffer = first ? g : 0.9 * s.m[i] + g;
            g = nesterov ? g + 0.9 * buffer : buffer;
          }
          want.push_back(s.param[i] - 0.1 * g);
        }
        k().sgd(queue(), {45, s.param.data(), s.grad.data(), momentum ? s.m.data() : nullptr, 0.1f,
                          momentum ? 0.9f : 0.0f, 0.01f, nesterov, first, 0.5f});
        expect_near(s.param, want, 1e-6);
      }
}

TEST(RandomAndOptimizers, NumberOfThreadsDoesNotChangeTheBits) {
  const int64_t n = 100003;
  expect_same_bits_for_any_threads([&] {
    State s(n);
    k().normal(queue(), n, 0.0f, 1.0f, kKey, 3, s.grad.data());
    k().dropout(queue(), DType::f32, n, 0.1f, kKey, s.grad.data(), s.grad.data(), false);
    k().adamw(queue(), {n, s.param.data(), s.grad.data(), s.m.data(), s.v.data(), 0.1f, 0.9f, 0.95f,
                        1e-8f, 0.2f, true, 3, 0.5f});
    k().sgd(queue(),
            {n, s.param.data(), s.grad.data(), s.m.data(), 0.1f, 0.9f, 0.01f, true, false, 0.5f});
    return s.param;
  });
}

}  // namespace
}  // namespace lockstep::testing
