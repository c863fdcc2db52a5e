// Buffers of a model are part of a run's state: one on all ranks, saved and resumed on any number
// of ranks and with any strategy. Ranks are threads.
#include "train/run/buffers.h"

#include <cmath>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/parallel.h"
#include "core/nn/layers.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temp_dir.h"
#include "tests/train/overrides.h"
#include "train/run/checkpoints.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kModel =
    "data: {kind: random}\n"
    "model: {kind: gpt, layers: 2, heads: 2, dim: 24, block: 4, vocab: 48}\n"
    "train: {steps: 4, global_batch: 4, micro_batch: 1, eval_batches: 3}\n"
    "optim: {kind: adamw, lr: 0.01}\n";

// Adds a buffer to any module.
Tensor add_buffer(nn::Module& module, const std::string& name, Tensor values) {
  struct Access : nn::Module {
    static auto member() { return &Access::register_buffer; }
  };
  return (module.*Access::member())(name, std::move(values));
}

// The model's output depends on `mean`, which moves once a step, and is counted in `steps`. What
// one rank's forward passes alone would give is `passes`.
void with_buffers(nn::Module& model) {
  nn::Module& block = *model.children()[3].second->children()[1].second;
  const Tensor mean = add_buffer(block, "mean", Tensor::full({3, 2}, 1)),
               steps = add_buffer(model, "steps", Tensor::zeros({1}, DType::i64)),
               passes = add_buffer(model, "passes", Tensor::zeros({}, DType::f32));
  block.add_forward_pre_hook([=](nn::Module&, nn::Variables&) {
    passes.fill_(passes.item() + 1);
    const auto place = nn::RandomScope::place();
    if (!place || steps.item() == place->step) return;
    steps.fill_(place->step);
    mean.fill_(mean.to_vector<float>()[0] * 0.5f + static_cast<float>(place->step));
  });
  block.add_forward_post_hook([=](nn::Module&, const nn::Variables&, nn::Variables& out) {
    out[0] = ops::mul(out[0], 1 + 0.1f * mean.to_vector<float>()[0]);
  });
}

struct Outcome {
  std::string weights;
  std::vector<float> mean;
  int64_t steps = 0;
  float passes = 0;
  bool operator==(const Outcome&) const = default;
};

Outcome outcome_of(const Trainer& trainer) {
  Outcome outcome;
  outcome.weights = trainer.weights_sha256();
  for (const StatePart& part : trainer.state()) {
    if (part.name == "blocks.1.mean") outcome.mean = part.values.to_vector<float>();
    if (part.name == "steps") outcome.steps = static_cast<int64_t>(part.values.item());
    if (part.name == "passes") outcome.passes = static_cast<float>(part.values.item());
  }
  return outcome;
}

// Trains up to step `last`, from what is saved in `dir` if anything is, and saves there.
Outcome run(const Overrides& overrides, int ranks, int64_t last, const std::string& dir) {
  const Config config = parse_config(kModel, "test", overrides);
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  test::run_threads(ranks, [&](int rank) {
    set_num_threads(1);
    Trainer trainer(config, comm::create("local", store, rank, ranks), with_buffers);
    resume(trainer, "auto", dir);
    while (trainer.steps_done() < last) {
      trainer.step();
      const Outcome before = outcome_of(trainer);
      trainer.evaluate();
      EXPECT_EQ(outcome_of(trainer), before) << "an evaluation changes no buffer";
    }
    Checkpoints(trainer, dir).save_last();
    outcomes[static_cast<size_t>(rank)] = outcome_of(trainer);
  });
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome, outcomes[0]) << "on all ranks";
  return outcomes[0];
}

const Overrides kDdp{"parallel.strategy=ddp"}, kFull{"parallel.strategy=fsdp"},
    kOptim{"parallel.strategy=fsdp", "parallel.shard=optim"};

TEST(Buffers, AreSavedAndResumedAtEveryNumberOfRanks) {
  const test::TempDir unstopped;
  Outcome expected = run(kDdp, 1, 4, unstopped.path());
  EXPECT_EQ(expected.steps, 4);
  EXPECT_EQ(expected.mean, std::vector<float>(6, 6.1875f));
  const std::vector<std::pair<Overrides, int>> layouts = {{kDdp, 1},   {kDdp, 2}, {kFull, 4},
                                                          {kOptim, 3}, {kDdp, 3}, {kFull, 1}};
  for (size_t i = 0; i < layouts.size(); ++i) {
    const auto& [first, ranks] = layouts[i];
    const auto& [second, more] = layouts[(i + 2) % layouts.size()];
    SCOPED_TRACE(str("layout ", i, ": ", ranks, " ranks, then ", more));
    const test::TempDir dir;
    const float passes = run(first, ranks, 2, dir.path()).passes;
    const Outcome got = run(second, more, 4, dir.path());
    EXPECT_EQ(got.weights, expected.weights);
    EXPECT_EQ(got.mean, expected.mean);
    EXPECT_EQ(got.steps, 4);
    EXPECT_GT(passes, 0);
    EXPECT_GT(got.passes, passes) << "it went on from what was saved";
  }
}

Trainer make_trainer(const Trainer::Adapt& adapt) {
  return Trainer(parse_config(kModel, "test", {}),
                 comm::create("local", std::make_shared<comm::HashStore>(), 0, 1), adapt);
}

TEST(Buffers, ACheckpointThatLacksOneOrHasOneMoreIsRefused) {
  const test::TempDir with, without;
  {
    Trainer plain = make_trainer({});
    Checkpoints(plain, without.path()).save_last();
    Trainer more = make_trainer(with_buffers);
    Checkpoints(more, with.path()).save_last();
    EXPECT_THAT([&] { resume(more, "auto", without.path()); },
                ThrowsMessage<UsageError>(HasSubstr("holds no buffer ")));
  }
  Trainer plain = make_trainer({});
  resume(plain, "auto", without.path());  // a model without buffers, as always
  EXPECT_THAT([&] { resume(plain, "auto", with.path()); },
              ThrowsMessage<UsageError>(
                  AllOf(HasSubstr("holds 'blocks.1.mean'"), HasSubstr("which this model lacks"))));
}

// What a checkpoint could not tell apart.
TEST(Buffers, NamesOfOptimizerStatesAreRefused) {
  const auto root = std::make_shared<nn::Sequential>();
  add_buffer(*root, "steps", Tensor::zeros({1}));
  check_entry_names(*root);
  struct Holder : nn::Module {
    using nn::Module::register_module;
  };
  Holder holder;
  holder.register_module("optim", root);
  EXPECT_THAT([&] { check_entry_names(holder); },
              ThrowsMessage<UsageError>(AllOf(HasSubstr("buffer 'optim.steps'"),
                                              HasSubstr("rename the module 'optim'"))));
}

// A step that is refused counts for nothing.
TEST(Buffers, GoBackWhereAStepIsRefused) {
  Trainer trainer = make_trainer([](nn::Module& model) {
    with_buffers(model);
    model.add_forward_post_hook([](nn::Module&, const nn::Variables&, nn::Variables& out) {
      const auto place = nn::RandomScope::place();
      if (place && place->step == 2) out[0] = ops::mul(out[0], NAN);
    });
  });
  trainer.step();
  const Outcome before = outcome_of(trainer);
  EXPECT_THROW(trainer.step(), EnvironmentError);
  EXPECT_EQ(outcome_of(trainer), before);
}

TEST(Buffers, AllRanksTakeThoseOfTheFirst) {
  const auto store = std::make_shared<comm::HashStore>();
  test::run_threads(3, [&](int rank) {
    const auto group = comm::create("local", store, rank, 3);
    const NamedTensors buffers{{"a", Tensor::full({2}, rank + 5, DType::i64)}};
    share_buffers(buffers, *group);
    EXPECT_THAT(buffers[0].second.to_vector<int64_t>(), ElementsAre(5, 5));
  });
}

}  // namespace
}  // namespace lockstep::train
