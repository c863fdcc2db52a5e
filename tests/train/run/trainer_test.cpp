// One rank's steps, without a program around them.
#include "train/run/trainer.h"

#include <chrono>
#include <thread>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "tests/support/run_group.h"

namespace lockstep::train {
namespace {

Config small_mlp(const std::vector<std::string>& overrides = {}) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: mlp, layers: 1, dim: 6, block: 5, vocab: 3}\n"
      "train: {steps: 4, global_batch: 4, micro_batch: 2}\n",
      "test", overrides);
}

// The parameters after the first step.
std::vector<StatePart> after_one_step(const Config& config) {
  Trainer trainer(config, comm::create("local", std::make_shared<comm::HashStore>(), 0, 1));
  trainer.step();
  return trainer.state();
}

TEST(Trainer, WeightDecayIsOfMatricesWhateverTheOptimizer) {
  for (const char* kind : {"sgd", "adam", "adamw"}) {
    const std::string optimizer = std::string("optim.kind=") + kind;
    const auto plain = after_one_step(small_mlp({optimizer, "optim.weight_decay=0"}));
    const auto decayed = after_one_step(small_mlp({optimizer, "optim.weight_decay=0.5"}));
    for (size_t i = 0; i < plain.size(); ++i) {
      const auto& [name, tensor, shard] = plain[i];
      if (name.starts_with("optim.")) continue;
      const bool same = tensor.to_vector<float>() == decayed[i].values.to_vector<float>();
      EXPECT_EQ(same, tensor.dim() < 2) << kind << ": " << name;
    }
  }
}

// The times of all ranks in the steps before the tenth, as each rank learned them. Rank 1 takes 20
// ms longer for each micro-batch.
std::vector<std::vector<RankTimes>> times_with_a_slow_rank(const Config& config) {
  std::vector<std::vector<RankTimes>> seen(3);
  test::expect_success(test::run_group(3, [&](const test::Group& group) {
    Trainer trainer(config, group, [&](nn::Module& module) {
      if (group->rank() == 1)
        module.add_forward_pre_hook(
            [](nn::Module&, auto&) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
    });
    for (int step = 1; step <= 12; ++step) {
      const StepReport report = trainer.step();
      EXPECT_EQ(report.ranks.empty(), step != 10) << "step " << step;
      if (step == 10) seen[static_cast<size_t>(group->rank())] = report.ranks;
    }
  }));
  return seen;
}

TEST(Trainer, RanksLearnTheTimesOfAll) {
  for (const char* strategy : {"ddp", "fsdp"}) {
    const auto seen = times_with_a_slow_rank(small_mlp(
        {"train.steps=20", "train.global_batch=6", std::string("parallel.strategy=") + strategy}));
    for (const auto& ranks : seen) {
      ASSERT_EQ(ranks.size(), 3U) << strategy;
      EXPECT_GE(ranks[1].compute_ms, 20) << strategy;
      for (size_t r = 0; r < 3; ++r) {
        EXPECT_EQ(ranks[r].compute_ms, seen[0][r].compute_ms) << strategy;
        EXPECT_EQ(ranks[r].wait_ms, seen[0][r].wait_ms) << strategy;
        EXPECT_GE(ranks[r].data_ms, 0) << strategy;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::train
