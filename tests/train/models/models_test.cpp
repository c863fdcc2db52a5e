// The models: what their options mean.
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "train/models/gpt.h"
#include "train/models/llama.h"

namespace lockstep::train {
namespace {

const std::vector<int32_t> kTokens = {3, 1, 4, 1, 5, 9};

std::vector<float> logits_of(nn::Module& model, const std::vector<int32_t>& tokens = kTokens) {
  NoGradGuard no_grad;
  model.train(false);
  return model(Variable(Tensor::from(tokens, {1, static_cast<int64_t>(tokens.size())})))
      .data()
      .to_vector<float>();
}

LlamaOptions small_llama() {
  return {.layers = 2, .heads = 4, .kv_heads = 4, .dim = 32, .hidden = 40, .block = 8, .vocab = 11};
}

std::map<std::string, Tensor> by_name(const nn::Module& model) {
  std::map<std::string, Tensor> tensors;
  for (const Parameter& p : model.parameters()) tensors.emplace(p.name(), p.data());
  return tensors;
}

TEST(Gpt, ActivationAndEpsMatter) {
  const GptOptions options{.layers = 2, .heads = 2, .dim = 16, .block = 8, .vocab = 11};
  std::vector<std::vector<float>> seen;
  for (const UnaryOp activation :
       {UnaryOp::gelu, UnaryOp::gelu_tanh, UnaryOp::relu, UnaryOp::silu}) {
    GptOptions other = options;
    other.activation = activation;
    Gpt model(other);
    model.initialize(1);
    seen.push_back(logits_of(model));
  }
  GptOptions eps = options;
  eps.norm_eps = 0.1f;
  Gpt model(eps);
  model.initialize(1);
  seen.push_back(logits_of(model));
  for (size_t i = 0; i < seen.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_NE(seen[i], seen[j]) << i << " and " << j;
}

// Whoever swaps, wraps or watches a layer must see all of its uses: no model reads a layer's
// weights behind its back.
void expect_every_module_runs(nn::Module& model) {
  std::set<std::string> all, ran;
  const std::function<void(nn::Module&)> watch = [&](nn::Module& module) {
    all.insert(module.path());
    module.add_forward_pre_hook(
        [&](nn::Module& called, nn::Variables&) { ran.insert(called.path()); });
    for (const auto& child : module.children()) watch(*child.second);
  };
  watch(model);
  logits_of(model);
  EXPECT_EQ(ran, all);
}

TEST(Models, RunEveryLayerThroughItsModule) {
  Gpt gpt({.layers = 2, .heads = 2, .dim = 16, .block = 8, .vocab = 11});
  expect_every_module_runs(gpt);
  LlamaOptions options = small_llama();
  for (const bool tied : {false, true}) {
    options.tied_head = tied;
    Llama llama(options);
    expect_every_module_runs(llama);
  }
}

// A hook may change what a layer gives: the model goes on with it.
TEST(Models, GoOnWithWhatAHookOfALayerGives) {
  const auto logits = [](const std::string& zeroed) {
    Gpt model({.layers = 1, .heads = 2, .dim = 16, .block = 8, .vocab = 11});
    model.initialize(1);
    nn::Module& block = *model.children()[3].second->children()[0].second;
    for (const auto& [name, layer] : block.children())
      if (name == zeroed)
        layer->add_forward_post_hook([](nn::Module&, const nn::Variables&, nn::Variables& out) {
          out[0] = ops::mul(out[0], 0.0f);
        });
    return logits_of(model);
  };
  const auto plain = logits("");
  for (const char* name : {"ln1", "qkv", "proj", "ln2", "fc", "act", "out", "drop1", "drop2"})
    EXPECT_NE(logits(name), plain) << name;
}

// Heads that share keys and values compute what as many heads with equal keys and values do.
TEST(Llama, SharedKeyAndValueHeads) {
  LlamaOptions options = small_llama();
  options.kv_heads = 2;
  Llama shared(options);
  options.kv_heads = 4;
  Llama full(options);
  shared.initialize(1);
  const auto from = by_name(shared);
  for (const auto& [name, to] : by_name(full)) {
    const Tensor& values = from.at(name);
    if (values.shape() == to.shape()) {
      to.copy_(values);
      continue;
    }
    const int64_t width = 32 / 4;
    for (int64_t head = 0; head < 4; ++head)
      to.narrow(0, head * width, width).copy_(values.narrow(0, head / 2 * width, width));
  }
  EXPECT_EQ(logits_of(shared), logits_of(full));
}

TEST(Llama, LaterTokensDoNotReachBack) {
  Llama model(small_llama());
  model.initialize(1);
  std::vector<int32_t> other = kTokens;
  other.back() = 2;
  const auto a = logits_of(model), b = logits_of(model, other);
  const size_t before = (kTokens.size() - 1) * 11;
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(before), b.begin()));
  EXPECT_FALSE(std::equal(a.begin(), a.end(), b.begin()));
}

// Positions are relative and they matter: without them, equal tokens before a query could be
// swapped.
TEST(Llama, OrderMatters) {
  Llama model(small_llama());
  model.initialize(1);
  const auto a = logits_of(model, {7, 3, 5}), b = logits_of(model, {3, 7, 5});
  EXPECT_FALSE(std::equal(a.end() - 11, a.end(), b.end() - 11));
}

TEST(Llama, HeadsOfItsOwnOrTied) {
  LlamaOptions options = small_llama();
  EXPECT_EQ(by_name(Llama(options)).count("head.weight"), 1u);
  options.tied_head = true;
  EXPECT_EQ(by_name(Llama(options)).count("head.weight"), 0u);
}

TEST(Llama, RefusesWhatDoesNotFit) {
  const auto error = [](auto change) -> std::string {
    LlamaOptions options = small_llama();
    change(options);
    return test::error_of([&] { Llama model(options); });
  };
  EXPECT_THAT(error([](auto& o) { o.kv_heads = 3; }), ::testing::HasSubstr("kv_heads"));
  EXPECT_THAT(error([](auto& o) { o.dim = 20; }), ::testing::HasSubstr("even width"));
  EXPECT_THAT(error([](auto& o) { o.hidden = 0; }), ::testing::HasSubstr("hidden"));
  EXPECT_THAT(error([](auto& o) { o.dropout = 1; }), ::testing::HasSubstr("dropout"));
}

}  // namespace
}  // namespace lockstep::train
