// Frozen parameters are part of a checkpoint: a run that is stopped and resumed, on any number of
// ranks and with any strategy, has theirs as well. Ranks are threads.
#include <algorithm>
#include <vector>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/parallel.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temp_dir.h"
#include "tests/train/overrides.h"
#include "train/run/checkpoints.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kModel =
    "data: {kind: random}\n"
    "model: {kind: gpt, layers: 2, heads: 2, dim: 24, block: 4, vocab: 48}\n"
    "train: {steps: 4, global_batch: 4, micro_batch: 1, eval_batches: 0}\n"
    "optim: {kind: adamw, lr: 0.01, weight_decay: 0.1}\n";

constexpr float kFrozen = 0.25f;

// Of the root's parameters and of those of both blocks; `name`: full, behind "optim.<state>." or
// not.
bool is_frozen(const std::string& name) {
  return name.ends_with("wpe.weight") || name.ends_with("blocks.0.ln2.weight") ||
         name.ends_with("blocks.1.fc.weight");
}

// Gives what is frozen a value that no seed would draw.
Trainer::Adapt freeze(float value) {
  return [value](nn::Module& model) {
    for (const Parameter& p : model.parameters()) {
      if (!is_frozen(p.name())) continue;
      p.set_requires_grad(false);
      p.set_initializer([value](int64_t, const Tensor& values) { values.fill_(value); });
      if (p.data().storage()->present()) p.draw_initial(0, p.data());
    }
  };
}

struct Outcome {
  std::string weights;
  bool frozen_kept = true;
  bool optimizer_has_frozen = false;
};

// Trains up to step `last`, from what is saved in `dir` if anything is, and saves there.
Outcome run(const Overrides& overrides, int ranks, int64_t last, const std::string& dir,
            float value) {
  const Config config = parse_config(kModel, "test", overrides);
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  test::run_threads(ranks, [&](int rank) {
    set_num_threads(1);
    Outcome& outcome = outcomes[static_cast<size_t>(rank)];
    Trainer trainer(config, comm::create("local", store, rank, ranks), freeze(value));
    resume(trainer, "auto", dir);
    while (trainer.steps_done() < last) trainer.step();
    Checkpoints(trainer, dir).save_last();
    for (const StatePart& part : trainer.state()) {
      if (!is_frozen(part.name)) continue;
      if (part.name.starts_with("optim."))
        outcome.optimizer_has_frozen = true;
      else
        for (const float element : part.values.to_vector<float>())
          outcome.frozen_kept = outcome.frozen_kept && element == kFrozen;
    }
    outcome.weights = trainer.weights_sha256();
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.weights, outcomes[0].weights);
    EXPECT_TRUE(outcome.frozen_kept);
    EXPECT_FALSE(outcome.optimizer_has_frozen);
  }
  return outcomes[0];
}

const Overrides kDdp{"parallel.strategy=ddp"}, kFull{"parallel.strategy=fsdp"},
    kOptim{"parallel.strategy=fsdp", "parallel.shard=optim"},
    kNearby{"parallel.strategy=fsdp", "parallel.shard=2"},
    kRecomputed{"parallel.strategy=fsdp", "train.recompute=blocks"};

TEST(Frozen, AreSavedAndResumedAtEveryNumberOfRanks) {
  const test::TempDir unstopped;
  const std::string expected = run(kDdp, 1, 4, unstopped.path(), kFrozen).weights;
  const std::vector<std::pair<Overrides, int>> layouts = {
      {kDdp, 1}, {kDdp, 2}, {kFull, 4}, {kOptim, 3}, {kNearby, 4}, {kRecomputed, 2}};
  for (size_t i = 0; i < layouts.size(); ++i) {
    const auto& [first, ranks] = layouts[i];
    const auto& [second, more] = layouts[(i + 2) % layouts.size()];
    SCOPED_TRACE(str("layout ", i, ": ", ranks, " ranks, then ", more));
    const test::TempDir dir;
    run(first, ranks, 2, dir.path(), kFrozen);
    // What the second run would draw for them must not matter.
    EXPECT_EQ(run(second, more, 4, dir.path(), -1.0f).weights, expected);
  }
}

// Optimizer and checkpoints would hold something else than what is trained.
TEST(Frozen, ChangesAfterTheTrainerWasMadeAreRefused) {
  for (const Overrides& overrides : {kDdp, kFull})
    for (const bool trained : {false, true}) {
      const Config config = parse_config(kModel, "test", overrides);
      Trainer trainer(config, comm::create("local", std::make_shared<comm::HashStore>(), 0, 1),
                      freeze(kFrozen));
      trainer.step();
      const auto parameters = trainer.model().module->parameters();
      const auto changed =
          std::find_if(parameters.begin(), parameters.end(),
                       [&](const Parameter& p) { return is_frozen(p.name()) == trained; });
      changed->set_requires_grad(trained);
      EXPECT_THAT([&] { trainer.step(); },
                  ThrowsMessage<UsageError>(AllOf(
                      HasSubstr(changed->name() + "' was " + (trained ? "unfrozen" : "frozen")),
                      HasSubstr("`adapt`"))));
      changed->set_requires_grad(!trained);
      trainer.step();
      EXPECT_EQ(trainer.steps_done(), 2);
    }
}

}  // namespace
}  // namespace lockstep::train
