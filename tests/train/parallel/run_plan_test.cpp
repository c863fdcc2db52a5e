// What `lockstep plan` states is what a step then does: the bytes that ranks really send to each
// other, the memory that the trainer states once it is built. Ranks are threads.
#include "train/parallel/run_plan.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/parallel.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temp_dir.h"
#include "tests/support/thread_transport.h"
#include "tests/train/overrides.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

// Weights of several blocks of the gradient norm; a step of 8 micro-batches.
constexpr const char* kModel =
    "data: {kind: random}\n"
    "model: {kind: gpt, layers: 4, heads: 2, dim: 48, block: 8, vocab: 100}\n"
    "train: {steps: 4, global_batch: 8, micro_batch: 1, eval_batches: 0}\n"
    "optim: {kind: adamw, lr: 0.01}\n";

// What the losses and the gradient norm send, by all ranks together: all_reduces of V + 3 floats,
// and with fsdp of a double for each block.
int64_t sent_beside(const Config& config, const BuiltModel& model, int ranks) {
  int64_t bytes = (config.train.micro_batches() + 3) * 4;
  if (config.parallel.strategy == StrategyKind::fsdp)
    for (const Parameter& p : model.module->parameters())
      bytes += (p.data().numel() + 1023) / 1024 * 8;
  return 2 * (ranks - 1) * bytes;
}

class Planned : public testing::TestWithParam<std::tuple<int, Overrides>> {};

TEST_P(Planned, TrafficAndMemoryAreWhatAStepTakes) {
  const auto& [ranks, overrides] = GetParam();
  SCOPED_TRACE(text(overrides));
  const Config config = parse_config(kModel, "test", overrides);
  const RunPlan plan = plan_run(config, ranks);

  test::Registry registry;
  std::vector<std::atomic<int64_t>> sent(static_cast<size_t>(ranks));
  std::vector<MemoryBound> bounds(static_cast<size_t>(ranks));
  std::atomic<int64_t> beside{0};
  test::run_threads(ranks, [&, ranks = ranks](int rank) {
    set_num_threads(1);
    const auto r = static_cast<size_t>(rank);
    const auto join = [&registry](const std::string& name, int size) {
      return registry.join(name, size);
    };
    const auto group = std::make_shared<comm::ProcessGroup>(
        std::make_unique<test::TransportBackend>(join, "world", rank, ranks, &sent[r]),
        comm::GroupOptions{});
    Trainer trainer(config, group);
    // In the first steps buckets are laid out, and the order of units is learned.
    for (int step = 0; step < 2; ++step) trainer.step();
    group->barrier().wait();
    sent[r] = 0;
    group->barrier().wait();
    trainer.step();
    group->barrier().wait();
    bounds[r] = trainer.memory_bound();
    if (rank == 0) beside = sent_beside(config, trainer.model(), ranks);
  });

  int64_t moved = -beside;
  for (const auto& bytes : sent) moved += bytes;
  EXPECT_EQ(moved, ranks * (plan.traffic.gathered + plan.traffic.reduced + plan.traffic.replicas));
  EXPECT_NE(std::find(bounds.begin(), bounds.end(), plan.memory), bounds.end())
      << "no rank states what was planned";
}

TEST(Plan, OfMoreMicroBatchesThanCouldBeListed) {
  for (const char* strategy : {"ddp", "fsdp"}) {
    const Config config =
        parse_config(kModel, "test",
                     Overrides{str("parallel.strategy=", strategy), "train.global_batch=2147483640",
                               "train.micro_batch=1"});
    const RunPlan plan = plan_run(config, 8);
    const bool dealt_out = config.parallel.strategy == StrategyKind::fsdp;
    for (size_t r = 0; r < 8; ++r) {
      EXPECT_EQ(plan.leaves[r].size(),
                dealt_out || r < 7 ? 268435455u + (dealt_out ? 0 : 1) : 268435448u)
          << strategy << " rank " << r;
      EXPECT_EQ(plan.leaves[r].step(), dealt_out ? 8 : 1);
    }
  }
}

TEST(Plan, WritesNothing) {
  const test::TempDir dir;
  const std::string runs = dir.path() + "/runs";
  const Config config =
      parse_config(kModel, "test",
                   Overrides{"parallel.strategy=fsdp", "parallel.offload=true", "run.dir=" + runs});
  const RunPlan plan = plan_run(config, 2);
  EXPECT_EQ(plan.memory[static_cast<size_t>(MemoryCategory::optimizer)], 0);
  EXPECT_FALSE(std::filesystem::exists(runs));
}

std::vector<std::tuple<int, Overrides>> cases() {
  std::vector<std::tuple<int, Overrides>> all;
  for (const int ranks : {2, 4}) {
    all.push_back({ranks, {"parallel.strategy=ddp"}});
    const auto fsdp = [&](Overrides more) {
      more.insert(more.begin(), "parallel.strategy=fsdp");
      all.push_back({ranks, std::move(more)});
    };
    for (const char* shard : {"full", "grad", "optim"}) fsdp({str("parallel.shard=", shard)});
    for (const int units : {1, 3, 9}) fsdp({str("parallel.units_in_flight=", units)});
    fsdp({"train.precision=bf16"});
    fsdp({"parallel.wrap=none"});
    fsdp({"parallel.wrap=blocks.0, blocks.2"});
    fsdp({"train.recompute=blocks"});
    fsdp({"model.kind=llama", "optim.kind=sgd"});
  }
  const Overrides fsdp{"parallel.strategy=fsdp"};
  // No power of two: sums in full-size buffers, and ranks with less to do.
  all.push_back({3, fsdp});
  all.push_back({4, {"parallel.strategy=fsdp", "parallel.shard=hybrid", "parallel.mesh=[2, 2]"}});
  all.push_back({4, {"parallel.strategy=fsdp", "parallel.shard=hybrid", "parallel.mesh=[4, 1]"}});
  all.push_back({4, {"parallel.strategy=fsdp", "parallel.shard=2"}});
  all.push_back({4, {"parallel.strategy=fsdp", "parallel.shard=1"}});
  all.push_back({1, fsdp});
  return all;
}

INSTANTIATE_TEST_SUITE_P(all, Planned, testing::ValuesIn(cases()));

}  // namespace
}  // namespace lockstep::train
