// Recomputation changes no bit, and saves memory.
#include "core/nn/recompute.h"

#include <map>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/device/kernels.h"
#include "core/nn/layers.h"
#include "core/nn/random.h"
#include "core/ops/precision.h"
#include "train/models/gpt.h"

namespace lockstep::nn {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

using Values = std::map<std::string, std::vector<float>>;

struct Outcome {
  double loss = 0;
  Values gradients;
  std::map<std::string, int> hooks;
  int64_t activations = 0;  // their peak, in bytes
};

std::unique_ptr<train::Gpt> make_gpt(float dropout) {
  auto model = std::make_unique<train::Gpt>(train::GptOptions{
      .layers = 4, .heads = 2, .dim = 32, .block = 24, .vocab = 50, .dropout = dropout});
  model->initialize(5);
  return model;
}

Tensor tokens() {
  std::vector<uint8_t> ids(2 * 24);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint8_t>(i * 7 % 50);
  return Tensor::from(ids, {2, 24});
}

// Two micro-batches whose gradients add up; every k-th block is computed again (0: none).
Outcome train_gpt(int every, float dropout, DType dtype) {
  const auto model = make_gpt(dropout);
  const auto blocks = model->children()[3].second;
  for (size_t i = 0; every > 0 && i < blocks->children().size(); i += static_cast<size_t>(every))
    blocks->children()[i].second->set_recompute();
  Outcome out;
  for (const Parameter& p : model->parameters())
    p.add_grad_hook([&](const Parameter& done) { ++out.hooks[done.name()]; });
  const ops::PrecisionScope precision(dtype);
  allocator(kCpu).reset_peak();
  const int64_t before =
      allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::activations)];
  for (uint32_t micro = 0; micro < 2; ++micro) {
    const RandomScope random(9, 1, micro);
    const Variable loss = ops::cross_entropy((*model)(Variable(tokens())), tokens());
    loss.backward();
    out.loss += loss.item();
  }
  out.activations =
      allocator(kCpu).stats().peak_bytes[static_cast<size_t>(MemoryCategory::activations)] - before;
  for (const Parameter& p : model->parameters())
    out.gradients[p.name()] = p.grad().to_vector<float>();
  return out;
}

TEST(Recompute, ChangesNoBitOfAGptWithDropout) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Outcome plain = train_gpt(0, 0.2f, dtype);
    for (int every : {1, 2, 3}) {
      const Outcome again = train_gpt(every, 0.2f, dtype);
      EXPECT_EQ(again.loss, plain.loss) << dtype << ", every " << every;
      EXPECT_EQ(again.gradients, plain.gradients) << dtype << ", every " << every;
      EXPECT_EQ(again.hooks, plain.hooks) << "each parameter's hook runs once a backward pass";
    }
    EXPECT_NE(train_gpt(1, 0.0f, dtype).gradients, plain.gradients) << "dropout took part";
  }
}

TEST(Recompute, KeepsTheInputsOfBlocksInsteadOfTheirActivations) {
  const int64_t plain = train_gpt(0, 0.0f, DType::f32).activations,
                half = train_gpt(2, 0.0f, DType::f32).activations,
                all = train_gpt(1, 0.0f, DType::f32).activations;
  EXPECT_LT(half, plain * 8 / 10);
  EXPECT_LT(all, plain * 6 / 10);
}

Variable parameter(std::vector<float> values) {
  return Variable(Tensor::from(values, {static_cast<int64_t>(values.size())}), true);
}

// x is used beside the part too, so its gradient is a sum whose order would show: 1e8 + 1 - 1e8.
TEST(Recompute, AddsToWhatElseUsesItsInputInTheOrderOfAPlainPass) {
  const auto gradient = [](bool again) {
    const Variable leaf = parameter({0.1f, 3.0f});
    const Variable x = ops::mul(leaf, 1.5f);
    const auto part = [](const Variable& v) {
      return ops::add(ops::mul(v, 1.0f), ops::mul(v, 1e8f));
    };
    const Variable y = again ? recompute(x, part) : part(x);
    ops::sum(ops::add(y, ops::mul(x, -1e8f))).backward();
    return leaf.grad().to_vector<float>();
  };
  EXPECT_EQ(gradient(true), gradient(false));
}

TEST(Recompute, MayUseValuesComputedOutsideAndBeNested) {
  const auto gradients = [](bool again) {
    const Variable a = parameter({0.3f, -2.0f}), b = parameter({1.7f, 0.9f});
    const Variable outside = ops::mul(b, 3.0f);
    const auto inner = [&](const Variable& v) { return ops::gelu(ops::mul(v, outside)); };
    const auto outer = [&](const Variable& v) {
      return ops::mul(again ? recompute(v, inner) : inner(v), ops::add(v, b));
    };
    ops::sum(again ? recompute(ops::mul(a, 2.0f), outer) : outer(ops::mul(a, 2.0f))).backward();
    return std::pair(a.grad().to_vector<float>(), b.grad().to_vector<float>());
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

TEST(Recompute, LeavesConstantsAndPassesWithoutGradientsAlone) {
  const auto twice = [](const Variable& v) { return ops::mul(v, 2.0f); };
  EXPECT_FALSE(recompute(Variable(Tensor::full({2}, 1)), twice).requires_grad());
  const Variable leaf = parameter({1, 2});
  {
    const NoGradGuard none;
    EXPECT_FALSE(recompute(leaf, twice).requires_grad());
  }
  const Variable same = recompute(leaf, [](const Variable& v) { return v; });
  ops::sum(same).backward();
  EXPECT_THAT(leaf.grad().to_vector<float>(), Each(1.0f));
}

// Two products, the first of which the second uses; the input as it is, ids, and the first once
// more.
Variables several(const Variables& in) {
  const Variable y = ops::mul(in.at(0), in.at(1));
  const Variable z = ops::mul(ops::gelu(y), in.at(2).defined() ? in[2] : in[0]);
  return {y, z, in[0], in.at(3), y};
}

// The gradients of the inputs where the loss uses the outputs whose bits are set. The numbers would
// show another order of sums.
std::vector<std::vector<float>> gradients_of_several(bool again, unsigned used, bool optional) {
  const std::vector<Variable> leaves{parameter({0.1f, 3.0f}), parameter({0.7f, -1.3f}),
                                     parameter({1.9f, 0.2f})};
  Variables in{ops::mul(leaves[0], 1.5f), ops::mul(leaves[1], 0.3f), Variable(),
               Variable(Tensor::full({2}, 4, DType::i64))};
  if (optional) in[2] = leaves[2];
  const Variables out = again ? recompute_all(in, several) : several(in);
  EXPECT_EQ(out.size(), 5u);
  EXPECT_EQ(out[3].data().to_vector<int64_t>(), std::vector<int64_t>(2, 4));
  EXPECT_FALSE(out[3].requires_grad());
  Variable loss = ops::sum(ops::mul(in[0], -1e6f));
  for (const size_t i : {0, 1, 2, 4})
    if (used >> i & 1)
      loss = ops::add(loss, ops::sum(ops::mul(out[i], 1e6f + static_cast<float>(i) / 3)));
  loss.backward();
  std::vector<std::vector<float>> gradients;
  for (const Variable& leaf : leaves)
    gradients.push_back(leaf.has_grad() ? leaf.grad().to_vector<float>() : std::vector<float>());
  return gradients;
}

TEST(Recompute, PartsWithSeveralInputsAndOutputsGiveTheBitsOfAPlainPass) {
  for (const bool optional : {false, true})
    for (unsigned used = 0; used < 32; ++used)
      EXPECT_EQ(gradients_of_several(true, used, optional),
                gradients_of_several(false, used, optional))
          << "outputs " << used << ", optional " << optional;
}

TEST(Recompute, APartWithSeveralOutputsRunsAgainOnceAPass) {
  int runs = 0;
  const Variable x = parameter({1, 2});
  const Variables out = recompute_all({x}, [&](const Variables& in) -> Variables {
    ++runs;
    return {ops::mul(in[0], 2.0f), ops::mul(in[0], 3.0f)};
  });
  EXPECT_EQ(runs, 1);
  ops::sum(ops::add(out[0], out[1])).backward();
  EXPECT_EQ(runs, 2);
  EXPECT_THAT(x.grad().to_vector<float>(), Each(5.0f));
}

// The first pass ends after one output's gradient came; the second comes to the other one alone.
TEST(Recompute, WhatAPassThatThrewLeftAtAnOutputIsForgotten) {
  const Variable x = parameter({1, 2});
  const Variables out = recompute_all({x}, [](const Variables& in) -> Variables {
    return {ops::mul(in[0], 2.0f), ops::mul(in[0], 3.0f)};
  });
  // Nodes run in reverse order of creation: out[1]'s has left its gradient when out[0]'s begins.
  bool faulty = true;
  out[0].impl()->grad->node->add_pre_hook([&] {
    if (std::exchange(faulty, false)) throw EnvironmentError("no more memory");
  });
  EXPECT_THROW(ops::sum(ops::add(out[0], out[1])).backward(), EnvironmentError);
  EXPECT_FALSE(x.has_grad());
  ops::sum(out[0]).backward();
  EXPECT_THAT(x.grad().to_vector<float>(), Each(2.0f));
}

TEST(Recompute, AModuleWithSeveralOutputsMayRecompute) {
  struct Both final : Module {
    std::shared_ptr<Linear> a = register_module("a", std::make_shared<Linear>(3, 3));
    std::shared_ptr<Linear> b = register_module("b", std::make_shared<Linear>(3, 3));
    Variables forward_all(const Variables& in) override {
      return {(*a)(ops::gelu(in.at(0))), (*b)(in.at(1))};
    }
  };
  const auto gradients = [](bool again) {
    Both model;
    model.initialize(1);
    model.set_recompute(again);
    const Variable x(Tensor::full({2, 3}, 1)), y(Tensor::full({2, 3}, 2));
    const Variables out = model.call({x, y});
    ops::sum(ops::mul(out[0], out[1])).backward();
    Values values;
    for (const Parameter& p : model.parameters()) values[p.name()] = p.grad().to_vector<float>();
    return values;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

TEST(Recompute, ModuleHooksRunOnce) {
  Linear layer(3, 3);
  layer.initialize(1);
  layer.set_recompute();
  int pre = 0, post = 0;
  layer.add_forward_pre_hook([&](Module&, Variables&) { ++pre; });
  layer.add_forward_post_hook([&](Module&, const Variables&, Variables&) { ++post; });
  ops::sum(layer(Variable(Tensor::full({2, 3}, 1)))).backward();
  EXPECT_EQ(pre, 1);
  EXPECT_EQ(post, 1);
  EXPECT_TRUE(layer.weight.has_grad());
}

// Backward sees parameters frozen or not as forward did, as without recomputation.
TEST(Recompute, FreezingBetweenForwardAndBackwardChangesNothing) {
  const auto gradients = [](bool again, const std::function<void(const Parameter&)>& between,
                            bool input_requires) {
    const auto first = std::make_shared<Linear>(2, 3), second = std::make_shared<Linear>(3, 2);
    Sequential model({first, second});
    model.initialize(1);
    first->bias.set_requires_grad(false);
    model.set_recompute(again);
    std::map<std::string, std::vector<float>> found;
    for (const Parameter& p : model.parameters())
      p.add_grad_hook([&](const Parameter& done) { found[done.name()] = {}; });
    const Variable loss = ops::sum(model(Variable(Tensor::full({1, 2}, 1), input_requires)));
    std::vector<bool> after;
    for (const Parameter& p : model.parameters()) {
      between(p);
      after.push_back(p.requires_grad());
    }
    loss.backward();
    for (size_t i = 0; i < after.size(); ++i)
      EXPECT_EQ(model.parameters()[i].requires_grad(), after[i]) << "left as it was";
    for (const Parameter& p : model.parameters())
      if (p.has_grad()) found[p.name()] = p.grad().to_vector<float>();
    return found;
  };
  const std::vector<std::function<void(const Parameter&)>> changes{
      [](const Parameter& p) { p.set_requires_grad(false); },
      [](const Parameter& p) { p.set_requires_grad(true); },
      [](const Parameter& p) { p.set_requires_grad(p.name() == "1.weight"); },
  };
  for (const auto& between : changes)
    for (const bool input : {false, true}) {
      const auto plain = gradients(false, between, input);
      EXPECT_EQ(plain.size(), 3u);
      EXPECT_EQ(gradients(true, between, input), plain);
    }
}

TEST(Recompute, SaysWhatChangedBetweenForwardAndBackward) {
  Sequential model({std::make_shared<Linear>(3, 3)});
  model.set_recompute();
  const Variable y = ops::sum(model(Variable(Tensor::full({2, 3}, 1))));
  model.train(false);
  EXPECT_THAT([&] { y.backward(); }, ThrowsMessage<UsageError>(HasSubstr("switched by train()")));

  int64_t length = 2;
  const Variable w = recompute(parameter({1, 2}), [&](const Variable& v) {
    return ops::mul(ops::narrow(v, 0, 0, length--), 2.0f);
  });
  EXPECT_THAT([&] { ops::sum(w).backward(); },
              ThrowsMessage<UsageError>(HasSubstr("it must compute the same each time")));
}

// Backward of a part that `change` comes before, or what it throws.
std::string backward_after(const std::function<Variable(const Variable&)>& part,
                           const std::function<void()>& change) {
  const Variable y = recompute(Variable(Tensor::full({2, 2}, 1), true), part);
  change();
  try {
    ops::sum(y).backward();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(Recompute, SaysThatIdsTargetsAndBuffersChanged) {
  const Variable table(Tensor::full({4, 2}, 1), true);
  const Tensor ids = Tensor::from(std::vector<int64_t>{0, 1}, {2}), targets = ids.clone(),
               mask = Tensor::full({2, 2}, 1);
  const Parameter frozen("frozen", Tensor::full({2, 2}, 1));
  const auto embed = [&](const Variable& x) { return ops::mul(x, ops::embedding(ids, table)); };
  const auto lose = [&](const Variable& x) { return ops::cross_entropy(x, targets); };
  const auto masked = [&](const Variable& x) { return ops::mul(x, Variable(mask)); };
  const auto detached = [&](const Variable& x) { return ops::mul(x, frozen.detach()); };
  const auto twice = [&](const Variable& x) {
    return ops::mul(ops::mul(x, Variable(mask.clone())), Variable(mask));
  };
  for (const auto& part :
       std::vector<std::function<Variable(const Variable&)>>{embed, lose, masked, detached, twice})
    EXPECT_EQ(backward_after(part, [] {}), "");
  const auto changed = [](const char* what) {
    return HasSubstr(what + std::string(" as it was in the forward pass, but fill_ changed it"));
  };
  EXPECT_THAT(backward_after(embed, [&] { ids.fill_(2); }),
              changed("[embedding] backward needs an input, i64[2]"));
  EXPECT_THAT(backward_after(lose, [&] { targets.fill_(1); }),
              changed("[cross_entropy] backward needs an input, i64[2]"));
  EXPECT_THAT(backward_after(masked, [&] { mask.fill_(5); }),
              changed("[mul] backward needs an input, f32[2, 2]"));
  EXPECT_THAT(backward_after(twice, [&] { mask.fill_(6); }),
              changed("[mul] backward needs an input, f32[2, 2]"));
  EXPECT_THAT(backward_after(detached, [&] { frozen.data().fill_(7); }),
              changed("[mul] backward needs an input, f32[2, 2]"));
}

// What a part computes may change once nobody needs it, though the part looked at it.
TEST(Recompute, ItsOwnResultMayChange) {
  const Variable x = parameter({1, 2});
  const Variable y = recompute(x, [](const Variable& v) {
    Variable doubled = ops::mul(v, 2.0f);
    (void)ops::sum(doubled.detach());
    return doubled;
  });
  const Variable loss = ops::sum(y);
  y.data().fill_(0);
  loss.backward();
  EXPECT_THAT(x.grad().to_vector<float>(), Each(2.0f));
}

TEST(Recompute, SaysThatAModuleBelowWasSwitched) {
  const auto dropout = std::make_shared<Dropout>(0.5f);
  Sequential model({std::make_shared<Linear>(2, 2), dropout});
  model.initialize(1);
  model.set_recompute();
  const RandomScope scope(1, 1, 0);
  const Variable loss = ops::sum(model(Variable(Tensor::full({2, 2}, 1))));
  dropout->train(false);
  EXPECT_THAT([&] { loss.backward(); },
              ThrowsMessage<UsageError>(HasSubstr("'1' was switched by train()")));
}

}  // namespace
}  // namespace lockstep::nn
