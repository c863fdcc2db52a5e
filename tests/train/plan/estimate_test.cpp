// Estimates of a step, against numbers computed by hand.
#include "train/plan/estimate.h"

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "train/parallel/strategy.h"

namespace lockstep::train {
namespace {

using ::testing::HasSubstr;

Config config(const std::vector<std::string>& sets = {}) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: gpt, layers: 2, heads: 2, dim: 64, block: 32}\n"
      "train: {global_batch: 32, micro_batch: 2}\n",
      "test", sets);
}

// Round figures: a micro-batch of F operations takes F microseconds.
Hardware hardware() {
  return {.name = "test",
          .flops_per_s = 2e6,
          .efficiency = 0.5,
          .memory_bytes_per_s = 1e9,
          .memory_bytes = 1e12,
          .local_bytes_per_s = 1e6,
          .remote_bytes_per_s = 1e5,
          .ranks_per_node = 4,
          .call_s = 0};
}

Estimate of(const Config& c, int ranks, const Hardware& h) {
  return estimate_step(c, plan_run(c, ranks), h);
}

TEST(Estimate, ComputeIsThatOfTheBusiestRank) {
  const RunPlan plan = plan_run(config(), 3);  // 16 micro-batches: 6, 5 and 5, or the like
  size_t busiest = 0;
  for (const auto& leaves : plan.leaves) busiest = std::max(busiest, leaves.size());
  const Estimate estimate = estimate_step(config(), plan, hardware());
  EXPECT_DOUBLE_EQ(estimate.compute_s,
                   plan.flops_per_step / 16 * static_cast<double>(busiest) / 1e6);
}

TEST(Estimate, RecomputationCostsAThirdMore) {
  const double plain = of(config(), 1, hardware()).compute_s;
  EXPECT_DOUBLE_EQ(of(config({"train.recompute=blocks"}), 1, hardware()).compute_s,
                   plain * 4.0 / 3.0);
}

TEST(Estimate, TheOptimizerReadsAndWrites32BytesAParameter) {
  const RunPlan plan = plan_run(config(), 1);
  EXPECT_DOUBLE_EQ(estimate_step(config(), plan, hardware()).optimizer_s,
                   static_cast<double>(plan.parameters) * 32 / 1e9);
}

TEST(Estimate, OneRankDoesNotCommunicate) {
  const Estimate estimate = of(config(), 1, hardware());
  EXPECT_EQ(estimate.communication_s, 0);
  EXPECT_EQ(estimate.exposed_s, 0);
}

// DDP moves 2·(W-1)/W of the gradients, here in one bucket that nothing hides.
TEST(Estimate, GradientsOfOneNodeTakeItsLinks) {
  Hardware instant = hardware();
  const RunPlan plan = plan_run(config(), 4);
  const double bytes = static_cast<double>(plan.parameters) * 4 * 2 * 3 / 4;
  const Estimate estimate = estimate_step(config(), plan, instant);
  EXPECT_NEAR(estimate.communication_s, bytes / 1e6, 1e-9);
  EXPECT_NEAR(estimate.exposed_s, bytes / 1e6, 1e-9);
}

// Over two nodes of four, in tree order: half of the bytes are slices that each rank sends itself,
// 4 of its 7 to the other node; the other half is gathered, and enters a node over four links.
TEST(Estimate, BetweenNodesEachRankSendsItsSlicesItself) {
  const RunPlan plan = plan_run(config(), 8);
  const double half = static_cast<double>(plan.parameters) * 4 * 7 / 8;
  EXPECT_NEAR(estimate_step(config(), plan, hardware()).communication_s,
              half / (1e5 * 7 / 4) + half / (4 * 1e5), 1e-6);
  EXPECT_NEAR(of(config({"parallel.reduction=fast"}), 8, hardware()).communication_s,
              2 * half / (4 * 1e5), 1e-6);
}

TEST(Estimate, AShardedModelHidesItsTrafficBehindCompute) {
  Hardware quick = hardware();
  quick.local_bytes_per_s = 1e9;
  const Config sharded = config({"parallel.strategy=fsdp"});
  const Estimate estimate = of(sharded, 4, quick);
  EXPECT_GT(estimate.communication_s, 0);
  EXPECT_LT(estimate.communication_s, estimate.compute_s);
  EXPECT_GT(estimate.exposed_s, 0);  // nothing hides the last call
  EXPECT_LT(estimate.exposed_s, estimate.communication_s / 2);
  quick.overlaps = false;
  EXPECT_DOUBLE_EQ(of(sharded, 4, quick).exposed_s, estimate.communication_s);
}

TEST(Estimate, AMeasuredMicroBatchCountsInsteadOfThePeak) {
  Hardware measured = hardware();
  measured.micro_batch_s = 0.25;
  measured.ranks_per_core = 2;
  EXPECT_DOUBLE_EQ(of(config(), 4, measured).compute_s, 4 * 0.25 * 2);
}

TEST(Estimate, SpeedAndUtilisationFollowFromTheStep) {
  const RunPlan plan = plan_run(config(), 2);
  const Estimate estimate = estimate_step(config(), plan, hardware());
  EXPECT_DOUBLE_EQ(estimate.items_per_s, 32 * 32 / estimate.step_s());
  EXPECT_DOUBLE_EQ(estimate.mfu, plan.flops_per_step / estimate.step_s() / (2 * 2e6));
}

// Of 10·dim a block and token: 2 inputs of norms, q, k and v, the heads' outputs, and 4·dim of the
// feed-forward part. Then 8·dim that backward needs beside them.
TEST(Estimate, ActivationsFollowFromShapes) {
  const double tokens = 2 * 32;
  EXPECT_DOUBLE_EQ(activation_bytes(config()), tokens * 4 * (2 * 10 * 64 + 8 * 64));
  EXPECT_DOUBLE_EQ(activation_bytes(config({"train.precision=bf16"})),
                   tokens * 2 * (2 * 10 * 64 + 8 * 64));
  // Each block keeps its input, and one is computed again at a time.
  EXPECT_DOUBLE_EQ(activation_bytes(config({"train.recompute=blocks"})),
                   tokens * 4 * (2 * 64 + 8 * 64 + 10 * 64));
}

TEST(Estimate, WhatDoesNotFitSaysSoAndComesLast) {
  Hardware small = hardware();
  const auto modes = compare_modes(config(), 4, 1, small);
  ASSERT_EQ(modes.size(), 4U);
  const auto largest = std::max_element(modes.begin(), modes.end(), [](auto& a, auto& b) {
    return a.planned_bytes < b.planned_bytes;
  });
  EXPECT_EQ(largest->mode, "ddp");
  small.memory_bytes = largest->planned_bytes + largest->activation_bytes - 1;
  const auto again = compare_modes(config(), 4, 1, small);
  EXPECT_EQ(again.back().mode, "ddp");
  EXPECT_FALSE(again.back().fits);
  EXPECT_TRUE(again.front().fits);
  EXPECT_EQ(again.back().largest_micro_batch, 1);
}

TEST(Estimate, NodesAddTheHybridMode) {
  std::vector<std::string> names;
  for (const auto& mode : compare_modes(config(), 8, 2, hardware())) names.push_back(mode.mode);
  EXPECT_THAT(names, testing::Contains(HasSubstr("hybrid [2, 4]")));
  EXPECT_EQ(names.size(), 5U);
}

TEST(Hardware, GpusAreThoseOfTheirDataSheets) {
  const auto h100 = gpu_hardware("h100", Precision::bf16, 50);
  ASSERT_TRUE(h100.has_value());
  EXPECT_DOUBLE_EQ(h100->flops_per_s, 989.4e12);
  EXPECT_DOUBLE_EQ(h100->memory_bytes, 80e9);
  EXPECT_DOUBLE_EQ(h100->remote_bytes_per_s, 40e9);
  EXPECT_DOUBLE_EQ(gpu_hardware("h200", Precision::bf16, 50)->memory_bytes, 141e9);
  EXPECT_DOUBLE_EQ(gpu_hardware("b200", Precision::bf16, 50)->flops_per_s, 2250e12);
  EXPECT_FALSE(gpu_hardware("h99", Precision::bf16, 50).has_value());
}

// docs/scale.md: 8 H100 and GPT-2 of 1.56 billion parameters, published at 374,000 tokens/s.
TEST(Estimate, EightGpusAndThePublishedFigureAreNear) {
  const Config gpt2 = parse_config(
      "data: {kind: random}\n"
      "model: {kind: gpt, layers: 48, heads: 25, dim: 1600, block: 1024, vocab: 50304}\n"
      "train: {global_batch: 1024, micro_batch: 16, precision: bf16}\n"
      "parallel: {strategy: fsdp, shard: optim}\n",
      "test");
  const Estimate estimate = of(gpt2, 8, gpu_hardware("h100", Precision::bf16, 50).value());
  EXPECT_NEAR(estimate.items_per_s / 374'000, 1, 0.15);
  EXPECT_TRUE(estimate.fits);
}

TEST(Hardware, AModelThatThisMachineCannotRunIsRefused) {
  const Config large = config({"model.layers=96", "model.heads=96", "model.dim=12288",
                               "model.block=2048", "train.global_batch=2"});
  EXPECT_THROW(measured_cpu(large, 1), UsageError);
}

TEST(Hardware, ThisMachineIsMeasured) {
  const Hardware cpu = measured_cpu(config(), 2);
  EXPECT_GT(cpu.micro_batch_s, 0);
  EXPECT_GT(cpu.memory_bytes_per_s, 0);
  EXPECT_FALSE(cpu.overlaps);
}

}  // namespace
}  // namespace lockstep::train
