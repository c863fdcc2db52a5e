// lockstep against PyTorch: values and gradients of every operation, optimizers, and a small GPT's
// training.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/device/kernels.h"
#include "core/ops/functions.h"
#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "tests/core/parity/npy.h"
#include "train/models/gpt.h"

namespace lockstep {
namespace {

using testing::read_npy;
using testing::write_npy;
using Variables = std::vector<Variable>;

Tensor normal(const Shape& shape, float stddev = 1.0f) {
  static uint32_t site = 0;
  Tensor t = Tensor::empty(shape);
  kernels(kCpu).normal(current_queue(kCpu), t.numel(), 0.0f, stddev, {.seed = 11, .site = ++site},
                       0, t.data<float>());
  return t;
}

Tensor positive(const Shape& shape) {
  static uint32_t site = 1000;
  Tensor t = Tensor::empty(shape);
  kernels(kCpu).uniform(current_queue(kCpu), t.numel(), 0.5f, 2.0f, {.seed = 11, .site = ++site}, 0,
                        t.data<float>());
  return t;
}

Tensor integers(const Shape& shape, int32_t limit) {
  std::vector<int32_t> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<int32_t>(philox({.seed = 5}, static_cast<uint32_t>(i))[0] %
                                     static_cast<uint32_t>(limit));
  return Tensor::from(values, shape);
}

// |actual − expected| ≤ tolerance · max(1, largest |expected|): sums of n products of f32 differ by
// their order alone, which is relative to the largest terms, not to each result.
void expect_close(const Tensor& actual, const Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.numel(), expected.numel());
  const auto a = actual.to_vector<float>(), e = expected.to_vector<float>();
  double scale = 1.0, worst = 0.0;
  for (float x : e) scale = std::max(scale, std::abs(static_cast<double>(x)));
  for (size_t i = 0; i < e.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - e[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  }
  EXPECT_LE(worst, tolerance * scale);
}

class Parity : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / str("lockstep-parity-", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(const std::string& name) const { return folder_ / (name + ".npy"); }

  // False where PyTorch is absent.
  bool run_reference(const std::string& what) const {
    const char* python = std::getenv("LOCKSTEP_TORCH_PYTHON");
    const std::string command = str(python ? python : "/usr/bin/python3", " '", REFERENCE_SCRIPT,
                                    "' ", what, " '", folder_.string(), "'");
    const int status = std::system(command.c_str());
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 77 || code == 127) {
      std::cerr
          << "\n*** NOT COMPARED WITH PYTORCH: it is not installed (Debian: python3-torch) ***\n\n";
      return false;
    }
    EXPECT_EQ(code, 0) << command;
    return code == 0;
  }

 private:
  std::filesystem::path folder_;
};

struct Case {
  std::string name;
  std::vector<Tensor> inputs;
  std::function<Variable(const Variables&)> f;
};

std::vector<Case> arithmetic_cases() {
  const Shape s{2, 3, 37};
  std::vector<Case> cases{
      {"add", {normal(s), normal(s)}, [](const Variables& x) { return ops::add(x[0], x[1]); }},
      {"add_broadcast",
       {normal({2, 1, 37}), normal({3, 1})},
       [](const Variables& x) { return ops::add(x[0], x[1]); }},
      {"sub", {normal(s), normal({37})}, [](const Variables& x) { return ops::sub(x[0], x[1]); }},
      {"mul", {normal(s), normal({3, 1})}, [](const Variables& x) { return ops::mul(x[0], x[1]); }},
      {"div",
       {normal(s), positive({2, 1, 37})},
       [](const Variables& x) { return ops::div(x[0], x[1]); }},
      {"scalars",
       {normal(s)},
       [](const Variables& x) {
         return ops::mul(ops::add(ops::mul(x[0], 2.5f), 1.5f), 1.0f / 3.0f);
       }},
      {"log", {positive(s)}, [](const Variables& x) { return ops::log(x[0]); }},
      {"sqrt", {positive(s)}, [](const Variables& x) { return ops::sqrt(x[0]); }},
      {"rsqrt", {positive(s)}, [](const Variables& x) { return ops::rsqrt(x[0]); }},
  };
  const std::vector<std::pair<std::string, Variable (*)(const Variable&)>> anywhere{
      {"exp", ops::exp},   {"square", ops::square},   {"abs", ops::abs},
      {"tanh", ops::tanh}, {"sigmoid", ops::sigmoid}, {"relu", ops::relu},
      {"silu", ops::silu}, {"gelu", ops::gelu},       {"gelu_tanh", ops::gelu_tanh}};
  for (const auto& [name, f] : anywhere)
    cases.push_back({name, {normal(s, 2.0f)}, [f = f](const Variables& x) { return f(x[0]); }});
  return cases;
}

std::vector<Case> shape_cases() {
  const Shape s{4, 6, 19};
  return {
      {"sum", {normal(s)}, [](const Variables& x) { return ops::sum(x[0]); }},
      {"mean", {normal(s)}, [](const Variables& x) { return ops::mean(x[0]); }},
      {"sum_axis", {normal(s)}, [](const Variables& x) { return ops::sum(x[0], 1); }},
      {"mean_keepdim", {normal(s)}, [](const Variables& x) { return ops::mean(x[0], 0, true); }},
      {"max", {normal(s)}, [](const Variables& x) { return ops::max(x[0], 2); }},
      {"softmax", {normal(s, 3.0f)}, [](const Variables& x) { return ops::softmax(x[0]); }},
      {"softmax_axis", {normal(s, 3.0f)}, [](const Variables& x) { return ops::softmax(x[0], 1); }},
      {"log_softmax", {normal(s, 3.0f)}, [](const Variables& x) { return ops::log_softmax(x[0]); }},
      {"reshape_transpose",
       {normal(s)},
       [](const Variables& x) {
         return ops::reshape(ops::transpose(ops::reshape(x[0], {2, -1}), 0, 1), x[0].shape());
       }},
      {"narrow_concat",
       {normal({3, 5, 2}), normal({3, 4, 2})},
       [](const Variables& x) {
         return ops::concat({ops::narrow(x[0], 1, 1, 2), x[1]}, 1);
       }},
  };
}

std::vector<Case> matrix_cases() {
  const auto product = [](const Variables& x) { return ops::matmul(x[0], x[1]); };
  return {
      {"matmul", {normal({33, 70}), normal({70, 21})}, product},
      {"matmul_transposed",
       {normal({40, 33}), normal({21, 40})},
       [](const Variables& x) {
         return ops::matmul(ops::transpose(x[0], 0, 1), ops::transpose(x[1], 0, 1));
       }},
      {"matmul_batched", {normal({2, 3, 8, 12}), normal({2, 3, 12, 5})}, product},
      {"matmul_broadcast", {normal({2, 3, 8, 12}), normal({12, 5})}, product},
      {"linear",
       {normal({4, 9, 24}), normal({17, 24}), normal({17})},
       [](const Variables& x) { return ops::linear(x[0], x[1], x[2]); }},
      {"linear_no_bias",
       {normal({1, 24}), normal({17, 24})},
       [](const Variables& x) { return ops::linear(x[0], x[1], {}); }},
  };
}

std::vector<Case> layer_cases() {
  Tensor ignored = integers({31}, 50);
  ignored.narrow(0, 3, 9).fill_(-1);
  return {
      {"layer_norm",
       {normal({4, 9, 24}, 3.0f), normal({24}), normal({24})},
       [](const Variables& x) { return ops::layer_norm(x[0], x[1], x[2]); }},
      {"rms_norm",
       {normal({4, 9, 24}, 3.0f), normal({24})},
       [](const Variables& x) { return ops::rms_norm(x[0], x[1]); }},
      {"gelu_linear",
       {normal({5, 24}), normal({17, 24}), normal({17})},
       [](const Variables& x) { return ops::linear(ops::gelu(x[0]), x[1], x[2]); }},
      {"layer_norm_linear",
       {normal({5, 24}), normal({24}), normal({24}), normal({17, 24}), normal({17})},
       [](const Variables& x) {
         return ops::linear(ops::layer_norm(x[0], x[1], x[2], 1e-5f), x[3], x[4]);
       }},
      {"rms_norm_linear",
       {normal({5, 24}), normal({24}), normal({17, 24})},
       [](const Variables& x) { return ops::linear(ops::rms_norm(x[0], x[1], 1e-6f), x[2], {}); }},
      {"embedding",
       {integers({4, 9}, 13), normal({13, 24})},
       [](const Variables& x) { return ops::embedding(x[0].data(), x[1]); }},
      {"attention",
       {normal({2, 7, 3 * 3 * 5})},
       [](const Variables& x) { return ops::causal_attention(x[0], 3); }},
      {"attention_long",
       {normal({1, 150, 3 * 2 * 16})},
       [](const Variables& x) { return ops::causal_attention(x[0], 2); }},
      {"attention_of_groups",
       {normal({2, 70, (6 + 2 * 2) * 8})},
       [](const Variables& x) { return ops::causal_attention(x[0], 6, 2); }},
      {"cross_entropy",
       {normal({4, 9, 50}, 3.0f), integers({4, 9}, 50)},
       [](const Variables& x) { return ops::cross_entropy(x[0], x[1].data()); }},
      {"cross_entropy_ignored",
       {normal({31, 50}, 3.0f), ignored},
       [](const Variables& x) { return ops::cross_entropy(x[0], x[1].data(), -1); }},
  };
}

TEST_F(Parity, OperationsGiveTheValuesAndGradientsOfPyTorch) {
  std::vector<Case> cases;
  for (const auto& group : {arithmetic_cases(), shape_cases(), matrix_cases(), layer_cases()})
    cases.insert(cases.end(), group.begin(), group.end());

  struct Result {
    Tensor out;
    std::vector<Tensor> gradients;
  };
  std::vector<Result> results;
  std::ofstream list(file("cases").replace_extension(".txt"));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Variables inputs;
    for (const Tensor& t : c.inputs) inputs.emplace_back(t, is_floating(t.dtype()));
    const Variable y = c.f(inputs);
    const Tensor seed = normal(y.shape());
    y.backward(seed);
    Result result{y.data(), {}};
    for (const Variable& x : inputs)
      result.gradients.push_back(x.requires_grad() ? x.grad() : Tensor());
    results.push_back(result);
    for (size_t i = 0; i < c.inputs.size(); ++i) write_npy(file(str(c.name, ".", i)), c.inputs[i]);
    write_npy(file(c.name + ".seed"), seed);
    list << c.name << ' ' << c.inputs.size() << '\n';
  }
  list.close();

  if (!run_reference("operations")) GTEST_SKIP() << "PyTorch is not installed";
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].name);
    expect_close(results[i].out, read_npy(file(cases[i].name + ".out")), 2e-6);
    for (size_t k = 0; k < results[i].gradients.size(); ++k) {
      SCOPED_TRACE(str("gradient of input ", k));
      if (results[i].gradients[k].defined())
        expect_close(results[i].gradients[k], read_npy(file(str(cases[i].name, ".grad.", k))),
                     5e-6);
    }
  }
}

TEST_F(Parity, OptimizersWalkLikePyTorchs) {
  constexpr int kSteps = 4;
  const std::vector<Shape> shapes{{7, 13}, {29}};
  for (size_t i = 0; i < shapes.size(); ++i) {
    write_npy(file(str("value.", i)), normal(shapes[i]));
    for (int step = 0; step < kSteps; ++step)
      write_npy(file(str("gradient.", step, ".", i)), normal(shapes[i], step == 1 ? 0.01f : 1.0f));
  }
  if (!run_reference("optimizers")) GTEST_SKIP() << "PyTorch is not installed";

  using Make = std::function<std::unique_ptr<optim::Optimizer>(std::vector<Parameter>)>;
  const optim::AdamOptions adam{
      .beta1 = 0.8f, .beta2 = 0.95f, .weight_decay = 0.1f, .decays = optim::decay_all};
  const std::vector<std::pair<std::string, Make>> makers{
      {"sgd", [](auto p) { return optim::make_sgd(p); }},
      {"momentum",
       [](auto p) { return optim::make_sgd(p, {.momentum = 0.9f, .weight_decay = 0.1f}); }},
      {"nesterov", [](auto p) { return optim::make_sgd(p, {.momentum = 0.9f, .nesterov = true}); }},
      {"adam", [&](auto p) { return optim::make_adam(p, adam); }},
      {"adamw", [&](auto p) { return optim::make_adamw(p, adam); }}};
  for (const auto& [name, make] : makers) {
    SCOPED_TRACE(name);
    std::vector<Parameter> parameters;
    for (size_t i = 0; i < shapes.size(); ++i)
      parameters.emplace_back(str("p", i), read_npy(file(str("value.", i))));
    const auto optimizer = make(parameters);
    double norm = 0;
    for (int step = 0; step < kSteps; ++step) {
      for (size_t i = 0; i < shapes.size(); ++i) {
        parameters[i].set_grad_buffer(read_npy(file(str("gradient.", step, ".", i))));
        parameters[i].mark_grad_valid();
      }
      norm = optim::grad_norm(parameters);
      optimizer->step(0.05f, optim::clip_scale(norm, 1.0));
    }
    EXPECT_NEAR(norm, read_npy(file(name + ".norm")).item(), 1e-5 * norm);
    for (size_t i = 0; i < shapes.size(); ++i)
      expect_close(parameters[i].data(), read_npy(file(str(name, ".", i))), 3e-6);
  }
}

TEST_F(Parity, AGptTrainsLikePyTorchs) {
  train::Gpt model({.layers = 2, .heads = 3, .dim = 24, .block = 16, .vocab = 50});
  model.initialize(3);
  const std::vector<Parameter> parameters = model.parameters();
  // Larger weights than a real start has, and no symmetric biases: every gradient is well away from
  // 0.
  std::ofstream names(file("names").replace_extension(".txt"));
  for (const Parameter& p : parameters) {
    p.data().copy_(ops::add(Variable(p.data()), Variable(normal(p.shape(), 0.2f))).data());
    write_npy(file("start." + p.name()), p.data());
    names << p.name() << '\n';
  }
  names.close();
  const Tensor tokens = integers({3, 14}, 50), targets = integers({3, 14}, 41);
  write_npy(file("tokens"), tokens);
  write_npy(file("targets"), targets);
  if (!run_reference("gpt")) GTEST_SKIP() << "PyTorch is not installed";

  // The gradient of a key's bias is 0 but for rounding, which Adam with a small eps would blow up
  // to whole steps.
  constexpr float kEps = 1e-4f;
  const auto optimizer = optim::make_adamw(
      parameters, {.beta1 = 0.9f, .beta2 = 0.95f, .eps = kEps, .weight_decay = 0.1f});
  std::vector<float> losses;
  for (int step = 0; step < 3; ++step) {
    optimizer->zero_grad();
    const Variable loss = ops::cross_entropy(model(Variable(tokens)), targets);
    loss.backward();
    losses.push_back(static_cast<float>(loss.item()));
    for (const Parameter& p : parameters) {
      SCOPED_TRACE(p.name());
      if (step == 0) expect_close(p.grad(), read_npy(file("grad." + p.name())), 3e-6);
    }
    optimizer->step(1e-2f, optim::clip_scale(optim::grad_norm(parameters), 1.0));
  }
  expect_close(Tensor::from(losses, {3}), read_npy(file("losses")), 1e-5);
  for (const Parameter& p : parameters) {
    SCOPED_TRACE(p.name());
    expect_close(p.data(), read_npy(file("end." + p.name())), 2e-5);
  }
}

}  // namespace
}  // namespace lockstep
