// Random models – nested, tied, frozen, empty, of several dtypes, with modules that run twice or
// never – under random options: FSDP on several ranks ends with the bits of one rank without it.
#include <random>

#include <gmock/gmock.h>

#include "fsdp/wrap.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <typename T>
  T among(const std::vector<T>& values) {
    return values[static_cast<size_t>(below(static_cast<int64_t>(values.size())))];
  }

 private:
  std::mt19937_64 engine_;
};

// Builds the same tree from the same seed, on every rank.
class RandomModel {
 public:
  explicit RandomModel(uint64_t seed)
      : dice_(seed), width_(dice_.among<int64_t>({1, 5, 16, 33, 64})) {}

  Model make() {
    const auto root = node(0);
    // Something must be trained, whatever the dice said.
    const Parameter scale = root->register_parameter("scale", Tensor::full({width_}, 1.0));
    const auto inner = root->body;
    root->body = [=](const Variable& x) { return ops::mul(inner(x), scale); };
    const int64_t width = width_;
    return {root, [root, width](int64_t micro) {
              const Variable x(random({4, width}, 1000 + static_cast<uint32_t>(micro)));
              return ops::mean(ops::square(ops::add((*root)(x), x)));
            }};
  }

 private:
  using Step = std::function<Variable(const Variable&)>;

  std::shared_ptr<Tree> node(int depth) {
    const auto module = std::make_shared<Tree>();
    std::vector<Step> steps;
    const int64_t own = 1 + dice_.below(3);
    for (int64_t i = 0; i < own; ++i) steps.push_back(parameter_step(*module, str("p", i)));
    const int64_t children = depth == 0 ? 2 + dice_.below(3) : depth < 3 ? dice_.below(3) : 0;
    std::vector<std::shared_ptr<Tree>> built;
    for (int64_t i = 0; i < children; ++i) {
      const bool again = !built.empty() && dice_.one_in(6);
      built.push_back(again ? dice_.among(built) : node(depth + 1));
      module->register_module(str("c", i), built.back());
      const auto child = built.back();
      if (dice_.one_in(8)) continue;  // never runs
      const Step run = [child](const Variable& x) { return (*child)(x); };
      steps.push_back(run);
      if (dice_.one_in(5)) steps.push_back(run);
    }
    module->body = [steps](const Variable& input) {
      Variable x = input;
      for (const Step& step : steps) x = step(x);
      return x;
    };
    return module;
  }

  // A new parameter, or one that another module has already.
  Step parameter_step(Tree& module, const std::string& name) {
    if (!matrices_.empty() && dice_.one_in(4)) {
      const Parameter tied = dice_.among(matrices_);
      module.register_shared_parameter(name, tied);
      return [tied](const Variable& x) {
        return ops::tanh(ops::cast(ops::linear(x, tied, {}), DType::f32));
      };
    }
    const uint32_t site = ++sites_;
    switch (dice_.below(5)) {
      case 0: {  // never trained, bf16
        const Parameter p = module.register_parameter(name, random({width_}, site).to(DType::bf16));
        p.set_requires_grad(false);
        return [p](const Variable& x) { return ops::add(x, ops::cast(p, DType::f32)); };
      }
      case 1: {
        // Takes part in nothing.
        const Parameter p = module.register_parameter(name, Tensor::zeros({0, width_}));
        return [](const Variable& x) { return x; };
      }
      case 2: {
        const Parameter p = module.register_parameter(name, random({width_}, site));
        p.set_requires_grad(!dice_.one_in(4));
        return [p](const Variable& x) { return ops::tanh(ops::mul(x, p)); };
      }
      default: {
        const Parameter p = module.register_parameter(name, random({width_, width_}, site));
        p.set_requires_grad(!dice_.one_in(5));
        matrices_.push_back(p);
        return [p](const Variable& x) {
          return ops::tanh(ops::cast(ops::linear(x, p, {}), DType::f32));
        };
      }
    }
  }

  Dice dice_;
  int64_t width_;
  uint32_t sites_ = 0;
  std::vector<Parameter> matrices_;
};

struct Case {
  Recipe recipe;
  int ranks;
  std::string text;
};

Case draw(uint64_t seed) {
  Dice dice(seed * 7919 + 1);
  Case c;
  c.ranks = dice.among<int>({1, 2, 3, 4});
  Options& o = c.recipe.options;
  o.find_unused_parameters = true;
  o.reshard = dice.among<Reshard>({Reshard::after_forward, Reshard::after_step});
  o.accumulate = dice.among<Accumulate>({Accumulate::in_shards, Accumulate::in_full});
  o.units_in_flight = static_cast<int>(1 + dice.below(3));
  std::vector<int> divisors;
  for (int d = 1; d <= c.ranks; ++d)
    if (c.ranks % d == 0) divisors.push_back(d);
  c.recipe.shards = dice.among(divisors);
  if (dice.one_in(3)) o.nearby = dice.one_in(2) ? 1 : c.recipe.shards;
  c.recipe.micro_batches =
      c.recipe.shards == c.ranks ? c.ranks + dice.below(6) : c.ranks * (1 + dice.below(3));
  c.recipe.compute = dice.one_in(3) ? DType::bf16 : DType::f32;
  c.recipe.clip = dice.one_in(2) ? 0.1f : 0.0f;
  const int64_t wrapped = 2 + dice.below(3);
  if (!dice.one_in(4))
    o.wrap = [wrapped](const nn::Module& m) {
      return static_cast<int64_t>(std::hash<std::string>{}(m.path()) % 4) < wrapped;
    };
  if (dice.one_in(2)) o.low_precision = [](const Parameter& p) { return p.data().dim() == 2; };
  c.recipe.make = [seed] { return RandomModel(seed).make(); };
  c.text = str("seed ", seed, ": ", c.ranks, " ranks, ", c.recipe.shards, " shards, nearby ",
               o.nearby, ", V ", c.recipe.micro_batches, ", ", c.recipe.compute, ", in flight ",
               o.units_in_flight, ", reshard ", static_cast<int>(o.reshard), ", accumulate ",
               static_cast<int>(o.accumulate));
  return c;
}

TEST(FullyShardProperty, RandomModelsTrainToTheBitsOfOneRank) {
  int with_units = 0, with_frozen = 0;  // the dice must have drawn what this is about
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Case c = draw(seed);
    const Model model = c.recipe.make();
    with_units += c.ranks > 1 && plan_units(*model.module, c.recipe.options.wrap).size() > 3;
    for (const Parameter& p : model.module->parameters()) {
      if (p.requires_grad()) continue;
      ++with_frozen;
      break;
    }
    ASSERT_EQ(train_sharded(c.recipe, c.ranks), train_reference(c.recipe)) << c.text;
  }
  EXPECT_GT(with_units, 60);
  EXPECT_GT(with_frozen, 30);
}

}  // namespace
}  // namespace lockstep::fsdp
