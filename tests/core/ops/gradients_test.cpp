// Every operation's gradient against central differences of its own forward pass.
#include <cmath>
#include <functional>
#include <ostream>

#include <gtest/gtest.h>

#include "core/ops/functions.h"

namespace lockstep {
namespace {

using Variables = std::vector<Variable>;

struct Case {
  const char* name;
  std::vector<Shape> shapes;
  std::function<Variable(const Variables&)> f;
  bool positive = false;  // inputs within [0.5, 2) instead of normal(0, 1)
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Tensor draw(const Shape& shape, uint32_t site, bool positive) {
  Tensor t = Tensor::empty(shape);
  const RandomKey key{.seed = 23, .site = site};
  if (positive)
    kernels(kCpu).uniform(current_queue(kCpu), t.numel(), 0.5f, 2.0f, key, 0, t.data<float>());
  else
    kernels(kCpu).normal(current_queue(kCpu), t.numel(), 0.0f, 1.0f, key, 0, t.data<float>());
  return t;
}

double weighted_sum(const Tensor& y, const Tensor& weights) {
  const auto a = y.to_vector<float>(), w = weights.to_vector<float>();
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += static_cast<double>(a[i]) * w[i];
  return total;
}

class Gradients : public ::testing::TestWithParam<Case> {};

TEST_P(Gradients, AgreeWithFiniteDifferences) {
  const Case& c = GetParam();
  Variables inputs;
  for (size_t i = 0; i < c.shapes.size(); ++i)
    inputs.emplace_back(draw(c.shapes[i], static_cast<uint32_t>(i), c.positive), true);
  const Variable y = c.f(inputs);
  const Tensor weights = draw(y.shape(), 99, false);
  y.backward(weights);

  // Values of f32 are off by 2^-24 or so of their size, here a few units, and of a few sums: 1e-6,
  // divided by 2h = 2e-2. The method's own error is h²/6 times the third derivative: 1e-4 for a
  // derivative of 6 or so. Together under 1e-3, and for steep functions relative to the gradient.
  constexpr float kStep = 1e-2f;
  const NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<float> gradient = inputs[i].grad().to_vector<float>();
    const auto x = inputs[i].data().span<float>();
    for (size_t k = 0; k < x.size(); ++k) {
      const float old = x[k], high = old + kStep, low = old - kStep;
      x[k] = high;
      const double above = weighted_sum(c.f(inputs).data(), weights);
      x[k] = low;
      const double below = weighted_sum(c.f(inputs).data(), weights);
      x[k] = old;
      const double expected = (above - below) / (static_cast<double>(high) - low);
      EXPECT_NEAR(gradient[k], expected, 1.5e-3 * std::max(1.0, std::abs(expected)))
          << "element " << k << " of input " << i;
    }
  }
}

Case unary_case(const char* name, Variable (*f)(const Variable&), bool positive = false) {
  return {name, {{2, 9}}, [f](const Variables& x) { return f(x[0]); }, positive};
}

const Tensor& ids() {
  static const Tensor t = Tensor::from(std::vector<int32_t>{3, 0, 3, 1}, {2, 2});
  return t;
}

INSTANTIATE_TEST_SUITE_P(
    Elementwise, Gradients,
    ::testing::Values(
        Case{"add", {{2, 3}, {3}}, [](const Variables& x) { return ops::add(x[0], x[1]); }},
        Case{"sub", {{3}, {2, 3}}, [](const Variables& x) { return ops::sub(x[0], x[1]); }},
        Case{"mul", {{2, 1, 3}, {4, 1}}, [](const Variables& x) { return ops::mul(x[0], x[1]); }},
        Case{"mul_itself", {{2, 3}}, [](const Variables& x) { return ops::mul(x[0], x[0]); }},
        Case{
            "div", {{2, 3}, {2, 1}}, [](const Variables& x) { return ops::div(x[0], x[1]); }, true},
        Case{"add_scalar", {{4}}, [](const Variables& x) { return ops::add(x[0], 3.0f); }},
        Case{"mul_scalar", {{4}}, [](const Variables& x) { return ops::mul(x[0], -3.0f); }},
        Case{"dropout",
             {{70}},
             [](const Variables& x) {
               return ops::dropout(x[0], 0.4f, {.seed = 1, .step = 2, .micro = 3, .site = 4});
             }},
        unary_case("neg", ops::neg), unary_case("exp", ops::exp), unary_case("log", ops::log, true),
        unary_case("sqrt", ops::sqrt, true), unary_case("rsqrt", ops::rsqrt, true),
        unary_case("square", ops::square), unary_case("abs", ops::abs, true),
        unary_case("tanh", ops::tanh), unary_case("sigmoid", ops::sigmoid),
        unary_case("relu", ops::relu, true), unary_case("silu", ops::silu),
        unary_case("gelu", ops::gelu), unary_case("gelu_tanh", ops::gelu_tanh)),
    [](const auto& c) { return std::string(c.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Shapes, Gradients,
    ::testing::Values(
        Case{"sum", {{2, 3}}, [](const Variables& x) { return ops::sum(x[0]); }},
        Case{"mean", {{2, 3}}, [](const Variables& x) { return ops::mean(x[0]); }},
        Case{"sum_first", {{2, 3, 2}}, [](const Variables& x) { return ops::sum(x[0], 0); }},
        Case{"mean_middle",
             {{2, 3, 2}},
             [](const Variables& x) { return ops::mean(x[0], -2, true); }},
        Case{"max", {{2, 4, 2}}, [](const Variables& x) { return ops::max(x[0], 1); }},
        Case{"softmax", {{3, 5}}, [](const Variables& x) { return ops::softmax(x[0]); }},
        Case{"softmax_first", {{3, 5}}, [](const Variables& x) { return ops::softmax(x[0], 0); }},
        Case{"log_softmax", {{3, 5}}, [](const Variables& x) { return ops::log_softmax(x[0]); }},
        Case{"reshape",
             {{2, 6}},
             [](const Variables& x) {
               return ops::square(ops::reshape(x[0], {3, -1}));
             }},
        Case{"transpose",
             {{2, 3, 2}},
             [](const Variables& x) { return ops::square(ops::transpose(x[0], 0, 2)); }},
        Case{"narrow_twice",
             {{5, 2}},
             [](const Variables& x) {
               return ops::mul(ops::narrow(x[0], 0, 1, 3), ops::narrow(x[0], 0, 2, 3));
             }},
        Case{"concat",
             {{2, 1}, {2, 3}},
             [](const Variables& x) {
               return ops::square(ops::concat({x[0], x[1], x[0]}, 1));
             }}),
    [](const auto& c) { return std::string(c.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Layers, Gradients,
    ::testing::Values(
        Case{
            "matmul", {{3, 4}, {4, 2}}, [](const Variables& x) { return ops::matmul(x[0], x[1]); }},
        Case{"matmul_itself",
             {{3, 3}},
             [](const Variables& x) { return ops::matmul(x[0], ops::transpose(x[0], 0, 1)); }},
        Case{"matmul_batched",
             {{2, 1, 3, 4}, {3, 4, 2}},
             [](const Variables& x) { return ops::matmul(x[0], x[1]); }},
        Case{"linear",
             {{2, 2, 3}, {4, 3}, {4}},
             [](const Variables& x) { return ops::linear(x[0], x[1], x[2]); }},
        Case{"linear_twice",
             {{2, 3}, {3, 3}},
             [](const Variables& x) { return ops::linear(ops::linear(x[0], x[1], {}), x[1], {}); }},
        Case{"activation_linear",
             {{2, 3}, {4, 3}, {4}},
             [](const Variables& x) { return ops::linear(ops::gelu(x[0]), x[1], x[2]); }},
        Case{"activation_linear_and_residual",
             {{2, 3}, {3, 3}},
             [](const Variables& x) {
               return ops::add(ops::square(ops::mul(x[0], 1.0f)),
                               ops::linear(ops::silu(x[0]), x[1], {}));
             }},
        Case{"layer_norm_linear",
             {{2, 5}, {5}, {5}, {3, 5}, {3}},
             [](const Variables& x) {
               return ops::linear(ops::layer_norm(x[0], x[1], x[2], 1e-1f), x[3], x[4]);
             }},
        Case{"rms_norm_linear",
             {{2, 5}, {5}, {3, 5}},
             [](const Variables& x) {
               return ops::linear(ops::rms_norm(x[0], x[1], 1e-1f), x[2], {});
             }},
        Case{"layer_norm",
             {{3, 5}, {5}, {5}},
             [](const Variables& x) { return ops::layer_norm(x[0], x[1], x[2], 1e-1f); }},
        Case{"layer_norm_plain",
             {{3, 5}},
             [](const Variables& x) { return ops::layer_norm(x[0], {}, {}, 1e-1f); }},
        Case{"rms_norm",
             {{3, 5}, {5}},
             [](const Variables& x) { return ops::rms_norm(x[0], x[1], 1e-1f); }},
        Case{"embedding",
             {{4, 3}},
             [](const Variables& x) { return ops::square(ops::embedding(ids(), x[0])); }},
        Case{"causal_attention",
             {{2, 4, 12}},
             [](const Variables& x) { return ops::causal_attention(x[0], 2); }},
        Case{"causal_attention_of_groups",
             {{2, 4, 16}},
             [](const Variables& x) { return ops::causal_attention(x[0], 4, 2); }},
        Case{"attention_beside_another_use",
             {{1, 3, 6}},
             [](const Variables& x) {
               const Variable qkv = ops::mul(x[0], 1.0f);
               return ops::add(ops::causal_attention(qkv, 1), ops::narrow(qkv, 2, 0, 2));
             }},
        Case{"cross_entropy",
             {{2, 2, 4}},
             [](const Variables& x) { return ops::cross_entropy(x[0], ids()); }},
        Case{"cross_entropy_ignoring",
             {{2, 2, 4}},
             [](const Variables& x) { return ops::cross_entropy(x[0], ids(), 3); }}),
    [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace lockstep
