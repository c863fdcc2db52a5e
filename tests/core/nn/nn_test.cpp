#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>

#include "core/nn/init.h"
#include "core/nn/layers.h"
#include "core/nn/random.h"
#include "core/ops/precision.h"
#include "train/models/gpt.h"
#include "train/models/mlp.h"

namespace lockstep::nn {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::vector<std::string> names(const Module& module) {
  std::vector<std::string> out;
  for (const Parameter& p : module.parameters()) out.push_back(p.name());
  return out;
}

// Two layers that share a weight, and a buffer.
class Tied final : public Module {
 public:
  Tied() {
    register_buffer("scale", Tensor::full({1}, 2));
    first = register_module("first", std::make_shared<Linear>(3, 3));
    register_shared_parameter("again", first->weight);
  }
  std::shared_ptr<Linear> first;
  using Module::register_buffer;
  using Module::register_parameter;

 protected:
  Variable forward(const Variable& x) override {
    return ops::linear((*first)(x), first->weight, {});
  }
};

TEST(Module, ParametersCarryTheirFullNamesHoweverTheTreeWasBuilt) {
  const auto inner = std::make_shared<Sequential>();
  inner->append(std::make_shared<Linear>(2, 3));
  Sequential outer({std::make_shared<LayerNorm>(2), inner});
  EXPECT_THAT(names(outer), ElementsAre("0.weight", "0.bias", "1.0.weight", "1.0.bias"));
  inner->append(std::make_shared<Linear>(3, 1, false));
  EXPECT_THAT(names(*inner), ElementsAre("1.0.weight", "1.0.bias", "1.1.weight"));
  EXPECT_EQ(inner->path(), "1");
}

TEST(Module, ASharedParameterAppearsOnceUnderItsOwnersName) {
  const auto tied = std::make_shared<Tied>();
  Sequential root({tied});
  EXPECT_THAT(names(root), ElementsAre("0.first.weight", "0.first.bias"));
  ASSERT_EQ(root.buffers().size(), 1u);
  EXPECT_EQ(root.buffers()[0].first, "0.scale");
}

TEST(Module, RefusesNamesThatAreTakenOrCannotBe) {
  Tied tied;
  EXPECT_THAT([&] { tied.register_buffer("first", Tensor::zeros({1})); },
              ThrowsMessage<UsageError>(HasSubstr("'first' is registered already")));
  EXPECT_THAT([&] { tied.register_parameter("a.b", Tensor::zeros({1})); },
              ThrowsMessage<UsageError>(HasSubstr("a name without '.'")));
}

TEST(Module, HooksRunAroundForward) {
  Linear layer(2, 2);
  std::vector<std::string> calls;
  const HookHandle pre =
      layer.add_forward_pre_hook([&](Module&, Variables&) { calls.push_back("pre"); });
  const HookHandle post =
      layer.add_forward_post_hook([&](Module&, const Variables& in, Variables& out) {
        calls.push_back(str("post ", in[0].shape()));
        out[0] = ops::add(out[0], 5.0f);
      });
  const Variable x(Tensor::zeros({1, 2}));
  EXPECT_THAT(layer(x).data().to_vector<float>(), ElementsAre(5, 5));
  EXPECT_THAT(calls, ElementsAre("pre", "post [1, 2]"));
  pre.remove();
  layer(x);
  EXPECT_THAT(calls, ElementsAre("pre", "post [1, 2]", "post [1, 2]"));
  post.remove();
  EXPECT_THAT(layer(x).data().to_vector<float>(), ElementsAre(0, 0));
  EXPECT_EQ(calls.size(), 3u);
}

// Takes x, and y if there is one; gives their product and their ids.
struct Pair final : Module {
  Variables forward_all(const Variables& in) override {
    return {in.at(1).defined() ? ops::mul(in[0], in[1]) : in[0], in.at(2)};
  }
};

TEST(Module, TakesAndGivesSeveralVariables) {
  Pair pair;
  const Variable x(Tensor::full({2}, 3)), y(Tensor::full({2}, 4)),
      ids(Tensor::full({2}, 5, DType::i64));
  pair.add_forward_pre_hook([&](Module&, Variables& in) {
    ASSERT_EQ(in.size(), 3u);
    in[0] = ops::add(in[0], 1.0f);
  });
  pair.add_forward_post_hook([&](Module&, const Variables& in, Variables& out) {
    EXPECT_EQ(in.size(), 3u);
    out.push_back(in[0]);
  });
  const Variables out = pair.call({x, y, ids});
  ASSERT_EQ(out.size(), 3u);
  EXPECT_THAT(out[0].data().to_vector<float>(), ElementsAre(16, 16));
  EXPECT_THAT(out[1].data().to_vector<int64_t>(), ElementsAre(5, 5));
  EXPECT_THAT(out[2].data().to_vector<float>(), ElementsAre(4, 4));
  EXPECT_THAT(pair.call({x, {}, ids})[0].data().to_vector<float>(), ElementsAre(4, 4));

  Sequential chain({std::make_shared<Pair>(), std::make_shared<Activation>(UnaryOp::relu)});
  EXPECT_THAT([&] { chain(x, y, ids); },
              ThrowsMessage<UsageError>(HasSubstr("'1' takes one input, got 2")));
}

TEST(Module, WhatAModuleDoesNotTakeOrGiveIsNamed) {
  Sequential root({std::make_shared<Linear>(2, 2), std::make_shared<Pair>()});
  Module& linear = *root.children()[0].second;
  Module& pair = *root.children()[1].second;
  const Variable x(Tensor::zeros({1, 2}));
  EXPECT_THAT(
      [&] {
        linear.call({x, x});
      },
      ThrowsMessage<UsageError>(HasSubstr("'0' takes one input, got 2")));
  EXPECT_THAT([&] { linear.call({}); },
              ThrowsMessage<UsageError>(HasSubstr("'0' takes one input, got 0")));
  EXPECT_THAT([&] { linear(Variable()); },
              ThrowsMessage<UsageError>(HasSubstr("the input of '0' is undefined")));
  EXPECT_THAT([&] { pair(x, x, x); },
              ThrowsMessage<UsageError>(HasSubstr("expected one output of '1', got 2")));
  struct Neither final : Module {};
  Neither neither;
  EXPECT_THAT([&] { neither(x); },
              ThrowsMessage<UsageError>(HasSubstr("neither forward() nor forward_all()")));
}

TEST(Module, InitialValuesDependOnSeedAndNameAlone) {
  const auto start = [](uint64_t seed, int64_t layers) {
    train::Gpt model({.layers = layers, .heads = 2, .dim = 8, .block = 4, .vocab = 7});
    model.initialize(seed);
    for (const Parameter& p : model.parameters())
      if (p.name() == "blocks.0.fc.weight") return p.data().to_vector<float>();
    return std::vector<float>();
  };
  const auto values = start(1, 1);
  EXPECT_EQ(start(1, 3), values);
  EXPECT_NE(start(2, 1), values);
}

// 'costarring.weight' and 'liquid.weight' have one 32-bit hash; so do 'costarring' and 'liquid'.
class Named final : public Module {
 public:
  using Module::register_buffer;
  using Module::register_module;

 protected:
  Variable forward(const Variable& x) override {
    Variable value = x;
    for (const auto& child : children()) value = (*child.second)(value);
    return value;
  }
};

TEST(Module, TwoNamesThatWouldDrawTheSameValuesAreRefused) {
  ASSERT_EQ(site_of("costarring.weight"), site_of("liquid.weight"));
  Named model;
  const auto inner = model.register_module("costarring", std::make_shared<Linear>(8, 8, false));
  model.initialize(1);  // alone it may have its name
  model.register_module("liquid", std::make_shared<Linear>(8, 8, false));
  const auto both =
      AllOf(HasSubstr("'liquid.weight' and 'costarring.weight' would draw the same random numbers"),
            HasSubstr("rename"));
  EXPECT_THAT([&] { model.initialize(1); }, ThrowsMessage<UsageError>(both));
  {
    const DeferredInit deferred;
    Named sharded;
    sharded.register_module("costarring", std::make_shared<Linear>(8, 8, false));
    sharded.register_module("liquid", std::make_shared<Linear>(8, 8, false));
    EXPECT_THAT([&] { sharded.initialize(1); }, ThrowsMessage<UsageError>(both));
  }
  // Values that are not drawn may share a site, and a model that was refused does not spoil the
  // next.
  Named norms;
  norms.register_module("costarring", std::make_shared<RmsNorm>(8));
  norms.register_module("liquid", std::make_shared<RmsNorm>(8));
  norms.initialize(1);
  inner->initialize(1);
  inner->initialize(2);
}

TEST(InitialDraws, OneNameOfTwoParametersIsRefused) {
  const Parameter first("w", Tensor::zeros({4})), second("w", Tensor::zeros({4}));
  const auto same_name = ThrowsMessage<UsageError>(
      HasSubstr("two places that are both named 'w' would draw the same random numbers"));
  const InitialDraws draws;
  init_normal(first, 0, 1, 1);
  init_uniform(first, 0, 1, 1);  // a module may overrule its children
  EXPECT_THAT([&] { init_normal(second, 0, 1, 1); }, same_name);
  EXPECT_THAT([&] { init_uniform(second, 0, 1, 1); }, same_name);
  init_normal(second, 0, 1, 2);  // other numbers
  init_constant(second, 3);
  Named one, other;
  for (Named* model : {&one, &other}) model->register_module("fc", std::make_shared<Linear>(2, 2));
  one.initialize(5);
  EXPECT_THAT([&] { other.initialize(5); },
              ThrowsMessage<UsageError>(HasSubstr("both named 'fc.weight'")));
  other.initialize(6);
}

// A constructor does not know yet how its parameters will be called.
TEST(InitialDraws, OutsideOfThemNothingIsDrawn) {
  const Parameter p("weight", Tensor::zeros({4}));
  const auto outside = ThrowsMessage<UsageError>(
      AllOf(HasSubstr("'weight' cannot draw"), HasSubstr("reset_parameters()")));
  EXPECT_THAT([&] { init_normal(p, 0, 1, 1); }, outside);
  EXPECT_THAT([&] { init_uniform(p, 0, 1, 1); }, outside);
  EXPECT_THAT(p.data().to_vector<float>(), ElementsAre(0, 0, 0, 0));
  init_constant(p, 2);
  {
    const InitialDraws draws;
    init_normal(p, 0, 1, 1);
  }
  EXPECT_THAT([&] { init_normal(p, 0, 1, 1); }, outside);
}

// Each alone draws as it always did; both in one micro-batch would have one mask.
TEST(Dropout, TwoModelsOfOneScopeAreRefused) {
  const auto make = [] {
    return std::make_unique<Sequential>(
        std::vector<std::shared_ptr<Module>>{std::make_shared<Dropout>(0.5f)});
  };
  const auto first = make(), second = make();
  const Variable x(Tensor::full({64}, 1));
  std::vector<float> alone;
  {
    const RandomScope scope(1, 1, 0);
    alone = (*second)(x).data().to_vector<float>();
  }
  const RandomScope scope(1, 1, 0);
  EXPECT_EQ((*first)(x).data().to_vector<float>(), alone);
  EXPECT_THAT([&] { (*second)(x); },
              ThrowsMessage<UsageError>(
                  HasSubstr("two places that are both named '0' would draw the same")));
  EXPECT_EQ((*first)(x).data().to_vector<float>(), alone);
  const RandomScope other(2, 1, 0);
  EXPECT_NE((*second)(x).data().to_vector<float>(), alone);
}

TEST(Dropout, TwoPlacesThatWouldDrawTheSameMaskAreRefused) {
  Named model;
  const auto first = model.register_module("costarring", std::make_shared<Dropout>(0.5f));
  const auto second = model.register_module("liquid", std::make_shared<Dropout>(0.5f));
  const Variable x(Tensor::full({64}, 1), true);
  for (const bool again : {false, true}) {
    model.set_recompute(again);
    const RandomScope scope(1, 1, 0);
    EXPECT_THAT([&] { model(x); },
                ThrowsMessage<UsageError>(
                    HasSubstr("'liquid' and 'costarring' would draw the same random numbers")));
  }
  {
    const RandomScope scope(1, 1, 0);
    (*first)(x);
    (*first)(x);  // a place that is passed twice draws the same mask, which is documented
  }
  const RandomScope scope(1, 1, 1);
  (*second)(x);
}

// Scopes of one micro-batch draw from the same streams, wherever they open.
TEST(Dropout, AnInnerScopeOfTheSamePlaceSharesItsNames) {
  Named model;
  const auto first = model.register_module("costarring", std::make_shared<Dropout>(0.5f));
  const auto second = model.register_module("liquid", std::make_shared<Dropout>(0.5f));
  const Variable x(Tensor::full({64}, 1));
  const RandomScope outer(1, 1, 0);
  (*first)(x);
  {
    const RandomScope other(1, 1, 1);
    (*second)(x);  // other numbers
    const RandomScope back(1, 1, 0);
    EXPECT_THAT([&] { (*second)(x); },
                ThrowsMessage<UsageError>(
                    HasSubstr("'liquid' and 'costarring' would draw the same random numbers")));
  }
  {
    const RandomScope later(1, 2, 0), seed(2, 1, 0);
    (*second)(x);
  }
  EXPECT_THROW((*second)(x), UsageError);
}

TEST(Dropout, StepsCountFromOne) {
  EXPECT_THAT([] { RandomScope(1, 0, 0); },
              ThrowsMessage<UsageError>(HasSubstr("[random] steps count from 1, got 0")));
  EXPECT_FALSE(RandomScope::place().has_value());
}

TEST(Dropout, OneWithoutANameIsRefused) {
  Dropout alone(0.5f);
  const Variable x(Tensor::full({64}, 1));
  {
    const RandomScope scope(1, 1, 0);
    EXPECT_THAT([&] { alone(x); },
                ThrowsMessage<UsageError>(AllOf(HasSubstr("has no name"), HasSubstr("register"))));
  }
  alone.train(false);
  EXPECT_EQ(alone(x).data().to_vector<float>(), x.data().to_vector<float>());
}

TEST(Module, RefusesWhatItCannotHold) {
  const auto outer = std::make_shared<Named>(), inner = std::make_shared<Named>();
  outer->register_module("inner", inner);
  EXPECT_THAT([&] { inner->register_module("up", outer); },
              ThrowsMessage<UsageError>(HasSubstr("'inner.up' holds the one")));
  EXPECT_THAT([&] { outer->register_module("self", outer); },
              ThrowsMessage<UsageError>(HasSubstr("'self' holds the one")));
  EXPECT_THAT([&] { outer->register_module("none", std::shared_ptr<Linear>()); },
              ThrowsMessage<UsageError>(HasSubstr("'none' is null")));
  EXPECT_THAT([&] { outer->register_buffer("buffer", Tensor()); },
              ThrowsMessage<UsageError>(HasSubstr("'buffer' is undefined")));
  EXPECT_THAT([] { Tied().register_parameter("weight", Tensor()); },
              ThrowsMessage<UsageError>(HasSubstr("'weight', got an undefined")));
  for (const std::string name : {"\xff", "two\nlines", "__metadata__"}) {
    const auto no_name =
        ThrowsMessage<UsageError>(HasSubstr("cannot be a name: checkpoints hold names of UTF-8"));
    EXPECT_THAT([&] { outer->register_module(name, std::make_shared<Named>()); }, no_name);
    EXPECT_THAT([&] { outer->register_buffer(name, Tensor::zeros({1})); }, no_name);
    EXPECT_THAT([&] { Tied().register_parameter(name, Tensor::zeros({1})); }, no_name);
  }
  outer->register_buffer("größe μ", Tensor::zeros({1}));
  EXPECT_THROW(outer->add_forward_pre_hook({}), UsageError);
  EXPECT_THROW(outer->add_forward_post_hook({}), UsageError);
}

TEST(Module, ABufferOfAModuleThatIsRegisteredTwiceAppearsOnce) {
  Named root;
  const auto shared = std::make_shared<Named>();
  shared->register_buffer("scale", Tensor::zeros({1}));
  root.register_module("x", shared);
  root.register_module("y", shared);
  ASSERT_EQ(root.buffers().size(), 1u);
  EXPECT_EQ(root.buffers()[0].first, "y.scale");
}

TEST(Module, LinearStartsWithinItsBounds) {
  Linear layer(16, 100);
  layer.initialize(4);
  float largest = 0, mean = 0;
  for (float v : layer.weight.data().to_vector<float>()) {
    largest = std::max(largest, std::abs(v));
    mean += v / 1600;
  }
  EXPECT_LE(largest, 0.25f);
  EXPECT_GT(largest, 0.24f);
  EXPECT_NEAR(mean, 0.0f, 0.02f);
}

TEST(Dropout, DrawsByStepMicroBatchAndPlace) {
  Sequential model({std::make_shared<Dropout>(0.5f), std::make_shared<Dropout>(0.5f)});
  const Variable x(Tensor::full({64}, 1));
  const auto run = [&](uint32_t step, uint32_t micro) {
    const RandomScope scope(9, step, micro);
    return model(x).data().to_vector<float>();
  };
  const auto first = run(1, 0);
  EXPECT_EQ(run(1, 0), first);
  EXPECT_NE(run(2, 0), first);
  EXPECT_NE(run(1, 1), first);
  // Two places with one mask would keep half of the elements rather than a quarter.
  EXPECT_LT(std::count(first.begin(), first.end(), 4.0f), 28);
}

TEST(Dropout, IsOffOutsideOfTrainingAndNeedsAScopeWithin) {
  Sequential model({std::make_shared<Dropout>(0.5f)});
  const Variable x(Tensor::full({4}, 1));
  EXPECT_THAT([&] { model(x); }, ThrowsMessage<UsageError>(HasSubstr("nn::RandomScope")));
  model.train(false);
  EXPECT_THAT(model(x).data().to_vector<float>(), ElementsAre(1, 1, 1, 1));
}

TEST(Gpt, HasGpt2sParameters) {
  const train::Gpt model({});
  int64_t count = 0;
  for (const Parameter& p : model.parameters()) count += p.data().numel();
  EXPECT_EQ(count, 10844160);
  const train::Gpt one({.layers = 1, .heads = 1, .dim = 4, .block = 2, .vocab = 3});
  EXPECT_THAT(names(one),
              ElementsAre("wte.weight", "wpe.weight", "blocks.0.ln1.weight", "blocks.0.ln1.bias",
                          "blocks.0.qkv.weight", "blocks.0.qkv.bias", "blocks.0.proj.weight",
                          "blocks.0.proj.bias", "blocks.0.ln2.weight", "blocks.0.ln2.bias",
                          "blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.0.out.weight",
                          "blocks.0.out.bias", "lnf.weight", "lnf.bias"));
}

TEST(Gpt, RefusesOptionsAndTokensThatDoNotFit) {
  EXPECT_THAT([] { train::Gpt({.heads = 5}); },
              ThrowsMessage<UsageError>(HasSubstr("dim 384 and heads 5")));
  EXPECT_THAT([] { train::Gpt({.layers = 0}); },
              ThrowsMessage<UsageError>(HasSubstr("expected layers above 0")));
  train::Gpt model({.layers = 1, .heads = 1, .dim = 4, .block = 2, .vocab = 3});
  EXPECT_THAT(
      [&] {
        model(Variable(Tensor::zeros({1, 3}, DType::i32)));
      },
      ThrowsMessage<UsageError>(HasSubstr("T from 1 to 2, got i32[1, 3]")));
}

TEST(Gpt, Bf16FollowsF32) {
  train::Gpt model({.layers = 2, .heads = 2, .dim = 32, .block = 16, .vocab = 40});
  model.initialize(1);
  const Tensor tokens = Tensor::from(std::vector<uint8_t>{1, 5, 3, 2, 9, 8, 7, 39}, {2, 4});
  const auto run = [&](DType dtype) {
    model.zero_grad();
    const ops::PrecisionScope scope(dtype);
    const Variable loss = ops::cross_entropy(model(Variable(tokens)), tokens);
    loss.backward();
    std::vector<float> all;
    for (const Parameter& p : model.parameters())
      for (float v : p.grad().to_vector<float>()) all.push_back(v);
    return std::pair(loss.item(), all);
  };
  const auto [exact, g] = run(DType::f32);
  const auto [rounded, h] = run(DType::bf16);
  EXPECT_NEAR(rounded, exact, 0.01 * exact);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    dot += static_cast<double>(g[i]) * h[i];
    a += static_cast<double>(g[i]) * g[i];
    b += static_cast<double>(h[i]) * h[i];
  }
  EXPECT_GT(dot / std::sqrt(a * b), 0.995);
}

TEST(Layers, AttentionModuleAndRmsNormTrain) {
  Sequential model({std::make_shared<RmsNorm>(8), std::make_shared<CausalSelfAttention>(8, 2),
                    std::make_shared<Activation>(UnaryOp::silu)});
  model.initialize(1);
  Tensor x = Tensor::empty({2, 3, 8});
  kernels(kCpu).normal(current_queue(kCpu), x.numel(), 0, 1, {.seed = 2}, 0, x.data<float>());
  ops::sum(model(Variable(x))).backward();
  for (const Parameter& p : model.parameters()) EXPECT_TRUE(p.has_grad()) << p.name();
}

TEST(Mlp, LearnsXor) {
  train::Mlp model({2, 8, 2});
  model.initialize(3);
  const Variable x(Tensor::from(std::vector<float>{0, 0, 0, 1, 1, 0, 1, 1}, {4, 2}));
  const Tensor y = Tensor::from(std::vector<int32_t>{0, 1, 1, 0}, {4});
  double loss = 1;
  for (int step = 0; step < 400 && loss > 0.05; ++step) {
    model.zero_grad();
    const Variable value = ops::cross_entropy(model(x), y);
    value.backward();
    loss = value.item();
    for (const Parameter& p : model.parameters())
      kernels(kCpu).axpby(current_queue(kCpu), DType::f32, p.data().numel(), -1.0f, p.grad().raw(),
                          1.0f, p.data().raw());
  }
  EXPECT_LE(loss, 0.05);
  EXPECT_EQ(model.flops_per_row(), 6.0 * (2 * 8 + 8 * 2));
}

}  // namespace
}  // namespace lockstep::nn
