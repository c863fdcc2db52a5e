// Every operation in f16 against the same in f32, on the same device and from the same inputs.
#include <functional>

#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

using Variables = std::vector<Variable>;

class CudaF16 : public CudaTest {};

struct Case {
  const char* name;
  std::vector<Shape> inputs;
  // Weights and biases of f32: the inputs from this one on.
  size_t f32_from;
  std::function<Variable(const Variables&)> op;
};

// f16 values.
Tensor values(const Shape& shape, uint32_t site) {
  int64_t count = 1;
  for (int i = 0; i < shape.size(); ++i) count *= shape[i];
  return Tensor::from(random<float>(count, site), shape).to(DType::f16);
}

// The result, and the gradients of all inputs.
std::vector<std::vector<float>> run(const Case& c, DType dtype) {
  const ops::PrecisionScope scope(dtype);
  Variables x;
  for (size_t i = 0; i < c.inputs.size(); ++i)
    x.emplace_back(values(c.inputs[i], static_cast<uint32_t>(i + 1))
                       .to(i < c.f32_from ? dtype : DType::f32)
                       .to(kCuda),
                   true);
  const Variable y = c.op(x);
  const Tensor seed = values(y.shape(), 9).to(DType::f32).to(kCuda);
  ops::sum(ops::mul(ops::cast(y, DType::f32), Variable(seed))).backward();
  std::vector<std::vector<float>> all{y.data().to_vector<float>()};
  for (const Variable& v : x) all.push_back(v.grad().to_vector<float>());
  return all;
}

Tensor ids() { return Tensor::from(std::vector<int32_t>{1, 0, 3, 1, 2, 3}, {2, 3}).to(kCuda); }

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"linear",
       {{6, 16}, {24, 16}, {24}},
       1,
       [](const Variables& x) { return ops::linear(x[0], x[1], x[2]); }},
      {"linear of odd widths",
       {{3, 5}, {7, 5}, {7}},
       1,
       [](const Variables& x) { return ops::linear(x[0], x[1], x[2]); }},
      {"matmul",
       {{2, 5, 8}, {2, 8, 3}},
       2,
       [](const Variables& x) { return ops::matmul(x[0], x[1]); }},
      {"attention",
       {{2, 20, 3 * 2 * 16}},
       1,
       [](const Variables& x) { return ops::causal_attention(x[0], 2); }},
      {"attention of groups",
       {{1, 20, (4 + 2 * 2) * 12}},
       1,
       [](const Variables& x) { return ops::causal_attention(x[0], 4, 2); }},
      {"layer_norm",
       {{7, 20}, {20}, {20}},
       1,
       [](const Variables& x) { return ops::layer_norm(x[0], x[1], x[2], 1e-5f); }},
      {"rms_norm",
       {{7, 20}, {20}},
       1,
       [](const Variables& x) { return ops::rms_norm(x[0], x[1], 1e-5f); }},
      {"softmax", {{5, 33}}, 1, [](const Variables& x) { return ops::softmax(x[0]); }},
      {"gelu", {{3, 40}}, 1, [](const Variables& x) { return ops::gelu(x[0]); }},
      {"silu", {{3, 40}}, 1, [](const Variables& x) { return ops::silu(x[0]); }},
      {"dropout",
       {{9, 40}},
       1,
       [](const Variables& x) { return ops::dropout(x[0], 0.25f, RandomKey{}); }},
      {"add", {{4, 9}, {4, 9}}, 2, [](const Variables& x) { return ops::add(x[0], x[1]); }},
      {"mul", {{4, 9}, {9}}, 2, [](const Variables& x) { return ops::mul(x[0], x[1]); }},
      {"sum", {{4, 9}}, 1, [](const Variables& x) { return ops::sum(x[0]); }},
      {"embedding", {{4, 24}}, 0, [](const Variables& x) { return ops::embedding(ids(), x[0]); }},
      {"cross_entropy",
       {{2, 3, 11}},
       1,
       [](const Variables& x) { return ops::cross_entropy(x[0], ids()); }},
  };
  return all;
}

TEST_F(CudaF16, IsCloseToF32) {
  for (const Case& c : cases()) {
    const auto half = run(c, DType::f16), full = run(c, DType::f32);
    for (size_t part = 0; part < half.size(); ++part) {
      ASSERT_EQ(half[part].size(), full[part].size()) << c.name;
      for (size_t i = 0; i < half[part].size(); ++i)
        ASSERT_NEAR(half[part][i], full[part][i], 4e-3 * std::max(1.0f, std::abs(full[part][i])))
            << c.name << ", part " << part << ", element " << i;
    }
  }
}

TEST_F(CudaF16, GivesTheSameBitsEachTime) {
  for (const Case& c : cases()) EXPECT_EQ(run(c, DType::f16), run(c, DType::f16)) << c.name;
}

TEST_F(CudaF16, ACpuRefusesIt) {
  const Variable x(Tensor::zeros({2, 3}, DType::f16));
  EXPECT_EQ(test::error_of([&] { ops::gelu(x); }), "[gelu] expected f32 or bf16, got f16[2, 3]");
}

}  // namespace
}  // namespace lockstep::testing
