// Parameters that are read outside of their unit's forward pass: by the unit around it, by the
// loss, through side values, with an output that is detached. Gradients have the bits of one rank
// without FSDP.
#include <random>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/nn/layers.h"
#include "fsdp/wrap.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kWidth = 24;

Variable product(const Variable& x, const Parameter& weight) {
  return ops::tanh(ops::cast(ops::linear(x, weight, {}), DType::f32));
}

// A term of the loss that reads a parameter. `in_products`: matrices are read in products only.
Variable penalty(const Parameter& p, bool in_products) {
  if (!in_products || p.data().dim() == 1) return ops::mean(ops::square(p));
  return ops::mean(ops::square(product(Variable(Tensor::full({2, kWidth}, 0.5)), p)));
}

// Modules inside of each other, each with a matrix and a vector, under one root with a scale.
class RandomReads {
 public:
  // `faulty`: some passes can be made to throw.
  RandomReads(uint64_t seed, bool in_products, bool faulty = false)
      : engine_(seed), in_products_(in_products), faulty_(faulty) {}

  Model make() {
    const auto tree = node(0);
    const auto root = std::make_shared<Tree>();
    const Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 1.5));
    root->register_module("tree", tree);
    root->body = [tree](const Variable& x) { return (*tree)(x); };
    std::vector<Parameter> penalised;
    for (const Parameter& p : *all_)
      if (one_in(3)) penalised.push_back(p);
    std::function<void(int64_t)> fail_at;
    if (faulty_)
      fail_at = [countdown = countdown_](int64_t number) {
        *countdown = number < 0 ? 0 : 1 + static_cast<int>(number * 7 % 29);
      };
    return {root,
            [root, scale, penalised, sides = sides_, in_products = in_products_](int64_t micro) {
              sides->clear();
              const Variable x(random({3, kWidth}, 1000 + static_cast<uint32_t>(micro)));
              const Variable y = (*root)(x);
              Variable loss = ops::mean(ops::square(ops::mul(y, scale)));
              for (const Variable& side : *sides) {
                const Variable read = ops::add(ops::mul(side, y), side);
                loss = ops::add(loss, ops::mean(ops::square(read)));
              }
              for (const Parameter& p : penalised) loss = ops::add(loss, penalty(p, in_products));
              return loss;
            },
            fail_at};
  }
  bool drew_side_values() const { return side_values_ > 0; }
  bool drew_detached() const { return detached_ > 0; }

 private:
  bool one_in(uint64_t n) { return engine_() % n == 0; }

  // Any parameter of the tree, also one of a module that comes later.
  std::function<Variable(const Variable&)> read_any() {
    return [all = all_, pick = engine_()](const Variable& x) {
      const Parameter& p = (*all)[pick % all->size()];
      return p.data().dim() == 1 ? ops::mul(x, p) : product(x, p);
    };
  }

  std::shared_ptr<Tree> node(int depth) {
    const auto module = std::make_shared<Tree>();
    const bool tied = !all_->empty() && one_in(5);
    Parameter matrix;
    if (tied) {
      for (const Parameter& p : *all_)
        if (p.data().dim() == 2) matrix = p;
      module->register_shared_parameter("w", matrix);
    } else {
      matrix = module->register_parameter("w", random({kWidth, kWidth}, ++sites_));
      all_->push_back(matrix);
    }
    const Parameter vector = module->register_parameter("v", random({kWidth}, ++sites_));
    all_->push_back(vector);

    using Step = std::function<Variable(const Variable&)>;
    std::vector<Step> steps;
    if (one_in(3)) steps.push_back(read_any());
    steps.push_back([=, fault = fault()](const Variable& x) {
      return ops::mul(fault(product(x, matrix)), vector);
    });
    const int children = depth == 0 ? 3 : depth < 2 ? static_cast<int>(engine_() % 3) : 0;
    for (int i = 0; i < children; ++i) {
      const auto child = node(depth + 1);
      module->register_module(str("c", i), child);
      const Parameter own = child->own_parameters().front();
      const Step run = [child](const Variable& x) { return (*child)(x); };
      const Step read = [own](const Variable& x) { return product(x, own); };
      if (one_in(4)) steps.push_back(read);
      if (!one_in(4)) steps.push_back(run);
      if (one_in(3)) steps.push_back(read);
      if (one_in(5)) steps.push_back(run);
    }
    if (one_in(4)) steps.push_back(read_any());
    const bool side = one_in(4), detaches = side && one_in(2);
    if (depth > 0 && children == 0 && !side) module->set_recompute(one_in(3));
    side_values_ += side;
    detached_ += detaches;
    module->body = [steps, side, detaches, sides = sides_](const Variable& input) {
      Variable x = input;
      for (const Step& step : steps) x = step(x);
      if (side) sides->push_back(x);
      return detaches ? x.detach() : ops::add(x, input);
    };
    return module;
  }

  // Passes values and gradients on, unless it is the place that was chosen to throw.
  std::function<Variable(const Variable&)> fault() const {
    if (!faulty_) return [](const Variable& x) { return x; };
    const auto visit = [countdown = countdown_] {
      if (*countdown > 0 && --*countdown == 0) throw EnvironmentError("a transient fault");
    };
    return [visit](const Variable& x) {
      visit();
      return record("fault", x.data(), {x}, [visit](const Tensor& gradient, const Node& node) {
        visit();
        node.edge(0).add(gradient);
      });
    };
  }

  std::mt19937_64 engine_;
  const bool in_products_, faulty_;
  std::shared_ptr<int> countdown_ = std::make_shared<int>(0);  // visits to the next fault
  uint32_t sites_ = 0;
  int side_values_ = 0, detached_ = 0;
  std::shared_ptr<std::vector<Parameter>> all_ = std::make_shared<std::vector<Parameter>>();
  std::shared_ptr<std::vector<Variable>> sides_ = std::make_shared<std::vector<Variable>>();
};

struct Case {
  Recipe recipe;
  int ranks;
  std::string text;
};

// `faulty`: ranks have equal shares, so that all of them throw in the same micro-batch.
Case draw(uint64_t seed, bool faulty = false) {
  std::mt19937_64 engine(seed * 6007 + 3);
  const auto below = [&](uint64_t n) { return static_cast<int>(engine() % n); };
  Case c;
  c.ranks = 1 << below(3);
  Options& o = c.recipe.options;
  o.find_unused_parameters = true;
  o.reshard = below(3) == 0 ? Reshard::after_step : Reshard::after_forward;
  o.accumulate = below(3) == 0 ? Accumulate::in_full : Accumulate::in_shards;
  o.units_in_flight = 1 + below(3);
  c.recipe.shards = 1 << below(c.ranks == 4 ? 3 : c.ranks);
  if (below(3) == 0) o.nearby = 1;
  c.recipe.micro_batches =
      c.recipe.shards == c.ranks ? c.ranks + below(4) : c.ranks * (1 + below(2));
  if (faulty) c.recipe.micro_batches = c.ranks * (int64_t{1} << below(3));
  const bool low = below(3) == 0;
  if (low) {
    c.recipe.compute = DType::bf16;
    o.low_precision = [](const Parameter& p) { return p.data().dim() == 2; };
  }
  const int wrapped = 1 + below(4);  // the share of modules that are units
  o.wrap = [wrapped](const nn::Module& m) {
    return static_cast<int>(std::hash<std::string>{}(m.path()) % 4) < wrapped;
  };
  c.recipe.make = [seed, low, faulty] { return RandomReads(seed, low, faulty).make(); };
  c.text = str("seed ", seed, ": ", c.ranks, " ranks, ", c.recipe.shards, " shards, nearby ",
               o.nearby, ", V ", c.recipe.micro_batches, ", ", c.recipe.compute, ", in flight ",
               o.units_in_flight, ", reshard ", static_cast<int>(o.reshard), ", accumulate ",
               static_cast<int>(o.accumulate));
  return c;
}

TEST(OutsideReads, RandomModelsTrainToTheBitsOfOneRank) {
  // The dice must have drawn what this is about.
  int with_units = 0, with_sides = 0, with_detached = 0;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    const Case c = draw(seed);
    RandomReads model(seed, false);
    with_units += c.ranks > 1 && plan_units(*model.make().module, c.recipe.options.wrap).size() > 3;
    with_sides += model.drew_side_values();
    with_detached += model.drew_detached();
    ASSERT_EQ(train_sharded(c.recipe, c.ranks), train_reference(c.recipe)) << c.text;
  }
  EXPECT_GT(with_units, 40);
  EXPECT_GT(with_sides, 40);
  EXPECT_GT(with_detached, 20);
}

// Forward and backward throw in any place, and are tried again.
TEST(OutsideReads, RandomPassesThatThrewAreTriedAgain) {
  int threw = 0;
  for (uint64_t seed = 1000; seed < 1100; ++seed) {
    const Case c = draw(seed, true);
    ASSERT_EQ(train_sharded(c.recipe, c.ranks, &threw), train_reference(c.recipe)) << c.text;
  }
  EXPECT_GT(threw, 200);
}

// Blocks of which the loss reads what `reads` returns, after the forward pass.
Model blocks_with_penalty(const std::function<bool(const Parameter&)>& reads) {
  const auto root = std::make_shared<Tree>();
  const auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < 4; ++i) blocks->append(std::make_shared<nn::Linear>(kWidth, kWidth));
  root->register_module("blocks", blocks);
  const Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 2.0));
  root->body = [blocks](const Variable& x) { return (*blocks)(x); };
  root->initialize(3);
  std::vector<Parameter> read;
  for (const Parameter& p : root->parameters())
    if (reads(p)) read.push_back(p);
  return {root, [root, scale, read](int64_t micro) {
            Variable loss = ops::mean(ops::square(ops::mul(
                (*root)(Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(micro)))), scale)));
            for (const Parameter& p : read) loss = ops::add(loss, penalty(p, false));
            return loss;
          }};
}

TEST(OutsideReads, APenaltyOverAllWeightsReachesEachOfThem) {
  const auto make = [] { return blocks_with_penalty([](const Parameter&) { return true; }); };
  const Bits want = train_reference({.make = make});
  for (const int ranks : {1, 2, 4})
    for (const Reshard reshard : {Reshard::after_forward, Reshard::after_step})
      for (const Accumulate accumulate : {Accumulate::in_shards, Accumulate::in_full})
        for (const int shards : {ranks, 1}) {
          const Recipe recipe{
              .make = make,
              .options = {.reshard = reshard, .accumulate = accumulate, .units_in_flight = 1},
              .shards = shards};
          EXPECT_EQ(train_sharded(recipe, ranks), want)
              << ranks << " ranks, " << shards << " shards, " << static_cast<int>(reshard)
              << static_cast<int>(accumulate);
        }
}

// Gradients that are rounded on their way depend on the ranks, but not on what is a unit.
TEST(OutsideReads, GradientsThatTravelInBf16DoNotDependOnTheUnits) {
  Recipe recipe{.make = [] { return blocks_with_penalty([](const Parameter&) { return true; }); }};
  recipe.options = {.reduce = DType::bf16, .units_in_flight = 1};
  const Bits blocks = train_sharded(recipe, 2);
  recipe.options.wrap = [](const nn::Module&) { return false; };
  EXPECT_EQ(blocks, train_sharded(recipe, 2));
}

// A unit whose forward() never runs: the module around it reads its weights.
TEST(OutsideReads, AUnitMayBeReadByTheModuleAroundItAlone) {
  const auto make = [] {
    const auto root = std::make_shared<Tree>();
    const auto first = root->register_module("first", std::make_shared<nn::Linear>(kWidth, kWidth));
    const auto second =
        root->register_module("second", std::make_shared<nn::Linear>(kWidth, kWidth));
    root->body = [=](const Variable& x) {
      return ops::add(ops::linear(ops::gelu((*first)(x)), second->weight, second->bias),
                      ops::linear(x, first->weight, {}));
    };
    root->initialize(3);
    return Model{root, [root](int64_t micro) {
                   return ops::mean(ops::square(
                       (*root)(Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(micro))))));
                 }};
  };
  const Bits want = train_reference({.make = make});
  for (const int ranks : {1, 2, 4})
    EXPECT_EQ(train_sharded({.make = make}, ranks), want) << ranks << " ranks";
}

// Nobody can know whether the other ranks read as well.
TEST(OutsideReads, BeforeTheForwardPassAReadNamesParameterAndUnit) {
  const auto failures = run_group(2, [](const Group& group) {
    const Model model = blocks_with_penalty([](const Parameter&) { return false; });
    const auto sharded = fully_shard(model.module, group);
    const Parameter weight = model.module->parameters()[1];
    const Variable term = penalty(weight, false);
    sharded->backward(ops::add(term, model.loss(group->rank())));
  });
  EXPECT_THAT(failures, Each(AllOf(HasSubstr("'blocks.0.weight'"), HasSubstr("unit 'blocks.0'"),
                                   HasSubstr("forward pass"))));
}

// Between passes a unit that is still whole may be read, but not with the values of before.
TEST(OutsideReads, AfterAnEvaluationTheRootIsReadAsItIsNow) {
  for (const int ranks : {1, 2, 4})
    expect_success(run_group(ranks, [&](const Group& group) {
      const Model model = blocks_with_penalty([](const Parameter&) { return false; });
      const auto sharded = fully_shard(model.module, group, {.units_in_flight = 1});
      const Parameter scale = model.module->parameters()[0], weight = model.module->parameters()[1];
      ASSERT_EQ(scale.name(), "scale");
      const NoGradGuard no_grad;
      for (const float value : {2.0f, 3.0f, 4.0f}) {
        (*model.module)(Variable(random({3, kWidth}, 1)));
        // Whether or not it was read before the change.
        if (value < 4) {
          EXPECT_EQ(scale.data().to_vector<float>(), std::vector<float>(kWidth, value));
        }
        for (const auto& slice : sharded->slices())
          if (slice.name == "scale") slice.values.fill_(value + 1);
        // Rank 0 owns the scale; the others cannot know.
        if (ranks == 1) continue;
        if (group->rank() == 0) {
          EXPECT_THAT(
              [&] { scale.data().to_vector<float>(); },
              ThrowsMessage<UsageError>(AllOf(HasSubstr("'scale'"), HasSubstr("unit 'root'"),
                                              HasSubstr("not gathered"))));
        }
        EXPECT_THROW(weight.data().to_vector<float>(), UsageError);
      }
    }));
}

TEST(OutsideReads, AWeightThatTravelsInBf16IsReadInProductsOnly) {
  const auto failures = run_group(2, [](const Group& group) {
    const Model model = blocks_with_penalty([](const Parameter&) { return false; });
    const auto sharded =
        fully_shard(model.module, group,
                    {.low_precision = [](const Parameter& p) { return p.data().dim() == 2; },
                     .compute = DType::bf16});
    ops::PrecisionScope precision(DType::bf16);
    (*model.module)(Variable(random({3, kWidth}, 1)));
    penalty(model.module->parameters()[1], true);
    penalty(model.module->parameters()[1], false);
  });
  EXPECT_THAT(failures, Each(AllOf(HasSubstr("'blocks.0.weight' of unit 'blocks.0'"),
                                   HasSubstr("low_precision"))));
}

}  // namespace
}  // namespace lockstep::fsdp
