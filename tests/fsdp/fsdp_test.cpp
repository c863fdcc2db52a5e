// Ranks are threads here: what differs between backends is the conformance suite's business.
#include <gmock/gmock.h>

#include "core/nn/init.h"
#include "core/nn/layers.h"
#include "fsdp/fully_shard.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 48;  // 48·96 elements cross slices of any number of ranks

std::shared_ptr<Tree> make_block() {
  auto block = std::make_shared<Tree>();
  const auto norm = block->register_module("norm", std::make_shared<nn::LayerNorm>(kWidth));
  const auto wide =
      block->register_module("wide", std::make_shared<nn::Linear>(kWidth, 2 * kWidth));
  const auto back =
      block->register_module("back", std::make_shared<nn::Linear>(2 * kWidth, kWidth));
  block->body = [=](const Variable& x) {
    const Variable h = ops::linear(ops::layer_norm(x, norm->weight, norm->bias, norm->eps),
                                   wide->weight, wide->bias);
    return ops::add(x, ops::linear(ops::gelu(h), back->weight, back->bias));
  };
  return block;
}

// Token table tied to the head, three blocks, the middle one used twice.
Model make_model() {
  auto root = std::make_shared<Tree>();
  const auto table = root->register_module("table", std::make_shared<nn::Embedding>(20, kWidth));
  auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < 3; ++i) blocks->append(make_block());
  root->register_module("blocks", blocks);
  root->body = [=](const Variable& ids) {
    const auto& children = blocks->children();
    Variable x = ops::embedding(ids.data(), table->weight);
    for (size_t i : {0, 1, 2, 1}) x = (*children[i].second)(x);
    return ops::linear(x, table->weight, {});
  };
  root->initialize(3);
  const auto loss = [root](int64_t micro) {
    std::vector<int32_t> ids, targets;
    for (int i = 0; i < 10; ++i) {
      ids.push_back(static_cast<int32_t>((micro * 7 + i * 3) % 20));
      targets.push_back(static_cast<int32_t>((micro * 5 + i) % 20));
    }
    return ops::cross_entropy((*root)(Variable(Tensor::from(ids, {2, 5}))),
                              Tensor::from(targets, {2, 5}));
  };
  return {root, loss};
}

bool is_linear_weight(const Parameter& p) {
  return p.name().find("wide.weight") != std::string::npos ||
         p.name().find("back.weight") != std::string::npos;
}

// Every second use is of a block that keeps its input alone.
Model recomputing() {
  const Model model = make_model();
  const auto& blocks = model.module->children()[1].second->children();
  for (size_t i : {1, 2}) blocks[i].second->set_recompute();
  return model;
}

TEST(FullyShard, RecomputedBlocksChangeNoBit) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Bits want = train_reference({.make = make_model, .compute = compute, .clip = 0.5f});
    EXPECT_EQ(train_reference({.make = recomputing, .compute = compute, .clip = 0.5f}), want);
    for (const int ranks : {1, 2, 4}) {
      Recipe recipe{.make = recomputing, .compute = compute, .clip = 0.5f};
      // A block that is recomputed must have been gathered again.
      recipe.options.units_in_flight = 1;
      EXPECT_EQ(train_sharded(recipe, ranks), want) << ranks << " ranks, " << compute;
    }
  }
}

TEST(FullyShard, AModelWithoutMemoryIsDrawnSliceBySlice) {
  const auto deferred = [] {
    const nn::DeferredInit without_memory;
    return make_model();
  };
  const Bits want = train_reference({.make = make_model});
  for (const int ranks : {1, 3, 4})
    EXPECT_EQ(train_sharded({.make = deferred}, ranks), want) << ranks << " ranks";
}

TEST(FullyShard, TrainsToTheSameBitsOnAnyNumberOfRanks) {
  for (const int64_t micro_batches : {8, 11}) {
    Recipe recipe{.make = make_model, .micro_batches = micro_batches};
    const Bits reference = train_reference(recipe);
    for (const int ranks : {1, 2, 3, 4, 8})
      EXPECT_EQ(train_sharded(recipe, ranks), reference) << ranks << " ranks, " << micro_batches;
  }
}

TEST(FullyShard, NoScheduleChangesTheBits) {
  Recipe recipe{.make = make_model, .micro_batches = 12, .steps = 3, .clip = 0.5f};
  const Bits reference = train_reference(recipe);
  for (const Reshard reshard : {Reshard::after_forward, Reshard::after_step})
    for (const Accumulate accumulate : {Accumulate::in_shards, Accumulate::in_full})
      for (const int in_flight : {1, 2, 3})
        for (const int shards : {0, 1, 2}) {
          recipe.options = {
              .reshard = reshard, .accumulate = accumulate, .units_in_flight = in_flight};
          recipe.shards = shards;
          EXPECT_EQ(train_sharded(recipe, 4), reference)
              << static_cast<int>(reshard) << static_cast<int>(accumulate) << in_flight << shards;
        }
}

// Of eight ranks, the four of each half train a model, wherever the third dimension lies.
TEST(FullyShard, TwoDimensionsOfALargerMeshAreAsGoodAsAMeshOfTheirOwn) {
  Recipe recipe{.make = make_model, .micro_batches = 12, .clip = 0.5f};
  const Bits reference = train_reference(recipe);
  recipe.shards = 2;
  EXPECT_EQ(train_sharded(recipe, 4), reference);
  for (const size_t third : {0, 1, 2}) {
    recipe.mesh = [third](const Group& group) {
      std::vector<comm::MeshDimension> dimensions = {{"replicate", 2}, {"shard", 2}};
      dimensions.insert(dimensions.begin() + static_cast<std::ptrdiff_t>(third), {"tensor", 2});
      return comm::DeviceMesh(group, dimensions).submesh({"replicate", "shard"});
    };
    for (const int nearby : {0, 1}) {
      recipe.options.nearby = nearby;
      EXPECT_EQ(train_sharded(recipe, 8), reference) << third << ", nearby " << nearby;
    }
  }
  recipe.options.nearby = 0;
  recipe.mesh = [](const Group& group) {
    return comm::DeviceMesh(group, {{"shard", 4}, {"tensor", 2}}).submesh({"shard"});
  };
  EXPECT_EQ(train_sharded(recipe, 8), reference) << "without rows";
}

TEST(FullyShard, GatheringNearbyDoesNotChangeTheBits) {
  Recipe recipe{.make = make_model, .micro_batches = 8, .steps = 3};
  const Bits reference = train_reference(recipe);
  for (const int nearby : {1, 2, 4}) {
    recipe.options.nearby = nearby;
    EXPECT_EQ(train_sharded(recipe, 4), reference) << nearby;
  }
}

TEST(FullyShard, Bf16ComputeHasTheSameBits) {
  Recipe recipe{.make = make_model, .micro_batches = 8, .compute = DType::bf16};
  const Bits reference = train_reference(recipe);
  for (const int ranks : {1, 2, 4}) {
    recipe.options.low_precision = {};
    EXPECT_EQ(train_sharded(recipe, ranks), reference) << ranks << " ranks, gathered in f32";
    recipe.options.low_precision = is_linear_weight;
    EXPECT_EQ(train_sharded(recipe, ranks), reference) << ranks << " ranks, gathered in bf16";
  }
}

TEST(FullyShard, GradientsMayTravelInBf16) {
  Recipe recipe{.make = make_model, .micro_batches = 8, .steps = 1};
  const Bits exact = train_sharded(recipe, 2);
  recipe.options.reduce = DType::bf16;
  for (const Accumulate accumulate : {Accumulate::in_shards, Accumulate::in_full}) {
    recipe.options.accumulate = accumulate;
    const Bits rounded = train_sharded(recipe, 2);
    EXPECT_NE(rounded, exact);
    // Adam's first step is the learning rate times the gradient's sign, whatever its size: where it
    // is not tiny, no rounding changes it.
    int64_t elements = 0, near = 0;
    for (const auto& [name, values] : exact)
      for (size_t i = 0; i < values.size(); ++i) {
        ++elements;
        near += std::abs(std::bit_cast<float>(values[i]) -
                         std::bit_cast<float>(rounded.at(name)[i])) < 1e-4f;
      }
    EXPECT_GT(near, elements * 95 / 100);
  }
}

// Options::output does what a cast after the model does, which the reference has and FSDP has not.
TEST(FullyShard, TheOutputHasTheDtypeThatWasAskedFor) {
  for (const auto& [compute, output] :
       {std::pair{DType::bf16, DType::f32}, std::pair{DType::f32, DType::bf16}}) {
    const auto made = [output = output](bool casts, DType seen) {
      return [=] {
        Model model = make_model();
        model.loss = [=, root = model.module](int64_t micro) {
          const auto id = static_cast<int32_t>(micro);
          Variable logits =
              (*root)(Variable(Tensor::from(std::vector<int32_t>{id % 20, id * 7 % 20}, {1, 2})));
          EXPECT_EQ(logits.dtype(), seen);
          if (casts) logits = ops::cast(logits, output);
          return ops::cross_entropy(
              logits, Tensor::from(std::vector<int32_t>{id * 3 % 20, id * 5 % 20}, {1, 2}));
        };
        return model;
      };
    };
    const Bits want = train_reference({.make = made(true, compute), .compute = compute});
    for (const int ranks : {1, 2, 4}) {
      Recipe recipe{.make = made(false, output), .compute = compute};
      recipe.options.output = output;
      EXPECT_EQ(train_sharded(recipe, ranks), want)
          << ranks << " ranks, " << compute << " to " << output;
    }
  }
}

TEST(FullyShard, ParametersAreThereInTheirUnitsForwardOnly) {
  expect_success(run_group(2, [](const Group& group) {
    const Model model = make_model();
    const auto sharded = fully_shard(model.module, group);
    const Parameter weight = model.module->parameters()[1];
    EXPECT_EQ(weight.name(), "blocks.0.norm.weight");
    EXPECT_EQ(weight.shape(), (Shape{kWidth}));
    EXPECT_THAT([&] { weight.data().to_vector<float>(); },
                ThrowsMessage<UsageError>(HasSubstr("unit 'blocks.0'")));
    sharded->backward(model.loss(0));
    sharded->finish();
    EXPECT_THROW(weight.data().to_vector<float>(), UsageError);
  }));
}

TEST(FullyShard, RanksThatRunDifferentUnitsFailAtOnce) {
  const auto failures = run_group(2, [](const Group& group) {
    auto root = std::make_shared<Tree>();
    auto blocks = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 3; ++i) blocks->append(make_block());
    root->register_module("blocks", blocks);
    const bool odd = group->rank() == 1;
    root->body = [=](const Variable& x) {
      const auto& children = blocks->children();
      Variable y = (*children[0].second)(x);
      return (*children[odd ? 2 : 1].second)(y);  // units of equal size
    };
    root->initialize(1);
    const auto sharded = fully_shard(root, group, {.find_unused_parameters = true});
    sharded->backward(ops::mean((*root)(Variable(random({2, kWidth}, 5)))));
    sharded->finish();
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, AllOf(HasSubstr("called different things"), HasSubstr("label")));
}

TEST(FullyShard, AParameterWithoutGradientIsNamedOrZero) {
  const auto make = [] {
    auto root = std::make_shared<Tree>();
    const auto used = root->register_module("used", std::make_shared<nn::Linear>(4, 4));
    root->register_module("spare", std::make_shared<nn::Linear>(4, 4));
    root->body = [=](const Variable& x) { return (*used)(x); };
    root->initialize(1);
    return Model{root, [root](int64_t micro) {
                   return ops::mean(ops::square(
                       (*root)(Variable(random({3, 4}, static_cast<uint32_t>(micro))))));
                 }};
  };
  for (const std::string& failure : run_group(2, [&](const Group& group) {
         const Model model = make();
         const auto sharded = fully_shard(model.module, group);
         sharded->backward(model.loss(group->rank()));
         sharded->finish();
       }))
    EXPECT_THAT(failure, AllOf(HasSubstr("'spare.weight'"), HasSubstr("find_unused_parameters")));
  const Recipe recipe{
      .make = make, .micro_batches = 4, .options = {.find_unused_parameters = true}};
  EXPECT_EQ(train_sharded(recipe, 2), train_reference(recipe));
}

TEST(FullyShard, UnevenInputsAverageOverThoseThatHadSome) {
  const auto gradient_of = [](int ranks, const std::vector<int>& batches) {
    Bits result;
    expect_success(run_group(ranks, [&](const Group& group) {
      const Model model = make_model();
      const auto sharded = fully_shard(model.module, group);
      for (int step = 0;; ++step) {
        const bool have = step < batches[static_cast<size_t>(group->rank())];
        if (sharded->active_ranks(have) == 0) break;
        if (have)
          sharded->backward(model.loss(10 * step));  // every rank the same
        else
          sharded->skip();
        sharded->finish();
        for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
      }
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) result[name] = bits(whole);
      });
    }));
    return result;
  };
  // Equal inputs: the mean over any number of ranks that is a power of two is the one's.
  EXPECT_EQ(gradient_of(3, {3, 2, 1}).size(), gradient_of(1, {3}).size());
  EXPECT_EQ(gradient_of(2, {2, 1}), gradient_of(1, {2}));
}

std::string gradient_bits(const FullyShardedDataParallel& sharded) {
  std::string all;
  for (const Parameter& p : sharded.parameters())
    for (const uint32_t word : bits(p.grad())) all += std::to_string(word) + " ";
  return all;
}

TEST(FullyShard, WhatWasSaidOfInputsHoldsForOneStep) {
  expect_success(run_group(2, [&](const Group& group) {
    const Model model = make_model();
    const auto sharded = fully_shard(model.module, group);
    const auto step = [&](bool have) {  // every rank the same micro-batch
      if (have)
        sharded->backward(model.loss(7));
      else
        sharded->skip();
      sharded->finish();
      return gradient_bits(*sharded);
    };
    const std::string mean = step(true);
    ASSERT_EQ(sharded->active_ranks(group->rank() == 0), 1);
    EXPECT_EQ(step(group->rank() == 0), mean) << "the mean over the one rank that has input";
    EXPECT_EQ(step(true), mean) << "everybody has input again, and nobody asks";
    EXPECT_EQ(sharded->active_ranks(false), 0);
    EXPECT_EQ(step(true), mean) << "the next epoch";
  }));
}

// Hooks see whole gradients, as without sharding, whenever they were added.
TEST(FullyShard, HooksOfUsersRunBeforeGradientsAreSummed) {
  const auto gradient = [](float factor, Accumulate accumulate = Accumulate::in_shards) {
    std::vector<std::vector<float>> slices(2);
    expect_success(run_group(2, [&](const Group& group) {
      const Model model = make_model();
      const auto all = model.module->parameters();
      std::vector<HookHandle> removed;
      const auto add = [&](const Parameter& p) {
        p.add_grad_hook([factor](const Parameter& whole) {
          for (float& x : whole.grad().span<float>()) x *= factor;
        });
        removed.push_back(p.add_grad_hook([](const Parameter& whole) { whole.grad().fill_(9); }));
      };
      for (size_t i = 0; i < all.size(); i += 2) add(all[i]);
      const auto sharded = fully_shard(model.module, group, {.accumulate = accumulate});
      for (size_t i = 1; i < all.size(); i += 2) add(all[i]);
      for (const HookHandle& hook : removed) hook.remove();
      sharded->backward(model.loss(group->rank()));
      sharded->finish();
      for (const Parameter& p : sharded->parameters())
        for (const float x : p.grad().to_vector<float>())
          slices[static_cast<size_t>(group->rank())].push_back(x * 4 / factor);
    }));
    return slices;
  };
  EXPECT_EQ(gradient(4), gradient(1));
  EXPECT_EQ(gradient(4, Accumulate::in_full), gradient(1));
}

// The gradients of one parameter go to one place.
TEST(FullyShard, WhoTookTheGradientsIsNamed) {
  for (const int ranks : {1, 2}) {
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const Model model = make_model();
                            const auto sharded = fully_shard(model.module, group);
                            const Parameter p = model.module->parameters()[0];
                            const ScopedHook taker(p.add_grad_taker([](const Parameter&) {}));
                            sharded->backward(model.loss(group->rank()));
                          }),
                Each(AllOf(HasSubstr("a later taker"), HasSubstr(" of parameter '"))));
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const Model model = make_model();
                            ddp::DistributedDataParallel ddp(model.module->parameters(), {}, group);
                            const auto sharded = fully_shard(model.module, group);
                            sharded->backward(model.loss(group->rank()));
                            sharded->finish();
                            ddp.backward(model.loss(group->rank()));
                          }),
                Each(AllOf(HasSubstr("FullyShardedDataParallel"), HasSubstr("has taken over '"))));
  }
}

TEST(FullyShard, ARankThatDoesOtherThanItSaidFailsOnAllRanks) {
  for (const bool claims : {false, true}) {
    const auto failures = run_group(2, [&](const Group& group) {
      const Model model = make_model();
      const auto sharded = fully_shard(model.module, group);
      sharded->backward(model.loss(7));
      sharded->finish();
      sharded->active_ranks(group->rank() == 0 || claims);
      if (group->rank() == 0 || !claims)
        sharded->backward(model.loss(7));
      else
        sharded->skip();
      sharded->finish();
    });
    for (const std::string& failure : failures)
      EXPECT_THAT(
          failure,
          HasSubstr(
              claims ? "rank 1 told active_ranks() that it has input, but called skip()"
                     : "rank 1 told active_ranks() that it has no input, but called backward()"));
  }
}

TEST(FullyShard, ActiveRanksAreAskedBetweenSteps) {
  expect_success(run_group(1, [&](const Group& group) {
    const Model model = make_model();
    const auto sharded = fully_shard(model.module, group);
    sharded->backward(model.loss(7));
    EXPECT_THROW(sharded->active_ranks(true), UsageError);
    sharded->finish();
    EXPECT_EQ(sharded->active_ranks(true), 1);
  }));
}

TEST(FullyShard, RefusesWhatItCannotTrain) {
  expect_success(run_group(2, [](const Group& group) {
    auto root = std::make_shared<Tree>();
    root->register_parameter("half", Tensor::zeros({2}, DType::bf16));
    EXPECT_THAT([&] { fully_shard(root, group); },
                ThrowsMessage<UsageError>(AllOf(HasSubstr("'half'"), HasSubstr("summed in f32"))));
    EXPECT_THAT([&] { fully_shard(make_model().module, group, {.micro_batches = 1}); },
                ThrowsMessage<UsageError>(HasSubstr("too few")));
    EXPECT_THAT(
        [&] {
          fully_shard(make_model().module, comm::DeviceMesh(group, {{"rows", 1}, {"shard", 2}}));
        },
        ThrowsMessage<UsageError>(
            AllOf(HasSubstr("replicate and shard"), HasSubstr("rows 1 x shard 2"))));
    EXPECT_THAT([&] { fully_shard(make_model().module, group, {.nearby = 3}); },
                ThrowsMessage<UsageError>(HasSubstr("do not divide 2")));
  }));
  for (const std::string& failure : run_group(2, [](const Group& group) {
         fully_shard(std::make_shared<nn::Linear>(2, 2 + group->rank()), group);
       }))
    EXPECT_THAT(failure, AllOf(HasSubstr("f32[2, 2]"), HasSubstr("f32[3, 2]")));
}

// Also of those that another rank owns.
TEST(FullyShard, StartsFromTheValuesOfRankZero) {
  for (const auto& [ranks, shards] : {std::pair{2, 2}, {3, 3}, {4, 2}})
    expect_success(run_group(ranks, [&, ranks = ranks, shards = shards](const Group& group) {
      auto root = std::make_shared<Tree>();
      const Parameter frozen =
          root->register_parameter("frozen", Tensor::full({5000}, group->rank() + 1));
      frozen.set_requires_grad(false);
      root->register_parameter("trained", Tensor::full({5000}, group->rank() + 1));
      const Tensor mean = root->register_buffer("mean", Tensor::full({3}, group->rank() + 1));
      const auto sharded = fully_shard(
          root, comm::DeviceMesh(group, {{"replicate", ranks / shards}, {"shard", shards}}));
      EXPECT_EQ(mean.to_vector<float>(), std::vector<float>(3, 1.0f));
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        EXPECT_EQ(whole.to_vector<float>(), std::vector<float>(5000, 1.0f))
            << name << " on rank " << group->rank();
      });
    }));
}

// It has two buffers for its gradients, and more rounds than that; its sums of two rounds take
// turns in one place. The root has nothing of its own to wait for.
TEST(FullyShard, OneUnitAddsUpAllRounds) {
  const auto sums = [](int ranks) {
    Bits result;
    expect_success(run_group(ranks, [&](const Group& group) {
      const auto root = std::make_shared<Tree>();
      const auto only = root->register_module("only", std::make_shared<nn::Linear>(kWidth, kWidth));
      root->body = [only](const Variable& x) { return (*only)(x); };
      root->initialize(3);
      const auto wrap = [](const nn::Module& m) { return m.path() == "only"; };
      const auto sharded = fully_shard(root, group, {.micro_batches = 32, .wrap = wrap});
      for (const int64_t leaf : sharded->leaves()) {
        group->barrier().wait();  // what was on its way has arrived
        sharded->backward(ops::mean(
            ops::square((*root)(Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(leaf)))))));
      }
      sharded->finish();
      for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) result[name] = bits(whole);
      });
    }));
    return result;
  };
  EXPECT_EQ(sums(2), sums(1));
}

TEST(FullyShard, RanksThatWaitForEachOtherSaySo) {
  for (const int ranks : {1, 2})
    expect_success(run_group(ranks, [&](const Group& group) {
      const Model model = make_model();
      const auto sharded = fully_shard(model.module, group);
      EXPECT_EQ(sharded->exposed_communication(), Duration::zero());
      sharded->backward(model.loss(0));
      sharded->finish();
      EXPECT_EQ(sharded->exposed_communication() > Duration::zero(), ranks > 1);
    }));
}

TEST(FullyShard, SlicesAreTheWholeModel) {
  std::mutex mutex;
  std::map<std::string, int64_t> elements;
  expect_success(run_group(4, [&](const Group& group) {
    const Model model = make_model();
    const auto sharded = fully_shard(model.module, group);
    for (const auto& slice : sharded->slices()) {
      std::lock_guard lock(mutex);
      elements[slice.name] += slice.spec.length();
      EXPECT_EQ(slice.values.numel(), slice.spec.length());
    }
  }));
  for (const Parameter& p : make_model().module->parameters())
    EXPECT_EQ(elements[p.name()], p.data().numel()) << p.name();
}

}  // namespace
}  // namespace lockstep::fsdp
