#include "train/parallel/run_plan.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "comm/reduce/reduce_tree.h"
#include "core/base/sum_tree.h"
#include "fsdp/plan/memory_plan.h"
#include "train/models/factory.h"
#include "train/parallel/strategy.h"

namespace lockstep::train {
namespace {

// From here on, ranks with equal work are planned once.
constexpr int kRanksPlannedAlone = 512;

constexpr int64_t kF32 = size_of(DType::f32);

// Returns how many tensors of a parameter's size the optimizer keeps.
int64_t optimizer_states(const OptimConfig& config) {
  if (config.kind == OptimKind::sgd) return config.momentum > 0 ? 1 : 0;
  return 2;
}

int64_t& of(MemoryBound& bound, MemoryCategory category) {
  return bound[static_cast<size_t>(category)];
}

int64_t total(const MemoryBound& bound) {
  int64_t bytes = 0;
  for (const int64_t category : bound) bytes += std::max<int64_t>(category, 0);
  return bytes;
}

MemoryBound bound_of(const Config& config, int64_t parameters, int64_t gathered, int64_t gradients,
                     int64_t trained) {
  MemoryBound bound;
  bound.fill(kUnplanned);
  of(bound, MemoryCategory::parameters) = parameters;
  of(bound, MemoryCategory::gathered) = gathered;
  of(bound, MemoryCategory::gradients) = gradients;
  of(bound, MemoryCategory::optimizer) =
      config.parallel.offload ? 0 : trained * kF32 * optimizer_states(config.optim);
  return bound;
}

// Keeps the larger bound: the one so far, or that of one more rank.
void keep_largest(RunPlan& plan, const MemoryBound& bound) {
  if (plan.leaves.size() == 1 || total(bound) > total(plan.memory)) plan.memory = bound;
}

void plan_fsdp(const Config& config, nn::Module& module, int ranks, RunPlan& plan) {
  const fsdp::Options options = fsdp_options(config, module);
  const bool hybrid = config.parallel.shard.kind == ShardMode::Kind::hybrid;
  const int columns = hybrid ? static_cast<int>(config.parallel.mesh[1]) : ranks;
  std::set<std::tuple<size_t, int64_t, bool>> works;
  for (int r = 0; r < ranks; ++r) {
    const fsdp::Place place{ranks / columns, columns, r / columns, r % columns};
    const fsdp::Assignment mine =
        fsdp::assign(plan.micro_batches, place, options.accumulate == fsdp::Accumulate::in_shards);
    plan.leaves.push_back(mine.leaves);
    // A rank's memory depends on its part of the work, and a little on its column: those of padding
    // come last. So later ranks with equal work need no more than the first of them.
    const bool is_new = works.emplace(mine.leaves.size(), mine.rounds, mine.by_round).second;
    if (!is_new && r >= kRanksPlannedAlone) continue;
    const fsdp::MemoryPlan memory = fsdp::plan_memory(module, place, mine, options);
    keep_largest(plan, bound_of(config, memory.parameters, memory.gathered, memory.gradients,
                                memory.trained));
    if (r == 0) plan.traffic = fsdp::plan_traffic(module, place, mine, options);
  }
}

void plan_ddp(const Config& config, int ranks, RunPlan& plan) {
  const comm::ReduceTree tree(plan.micro_batches, ranks);
  const int64_t bytes = plan.parameters * kF32;
  for (int r = 0; r < ranks; ++r) {
    const Progression leaves(tree.begin(r), tree.begin(r + 1) - tree.begin(r));
    // Partial sums of a rank's micro-batches take one copy of the gradients for each level of the
    // rank's binary counter.
    const int64_t levels = sum_tree::level_count(static_cast<int64_t>(leaves.size()));
    plan.leaves.push_back(leaves);
    keep_largest(plan, bound_of(config, bytes, 0, bytes * (1 + levels), plan.parameters));
  }
  plan.traffic.replicas = 2 * bytes * (ranks - 1) / ranks;
}

}  // namespace

double RunPlan::imbalance() const {
  size_t largest = 0;
  for (const auto& mine : leaves) largest = std::max(largest, mine.size());
  return static_cast<double>(largest) * static_cast<double>(leaves.size()) /
         static_cast<double>(micro_batches);
}

RunPlan plan_run(const Config& config, int ranks) {
  check_world_size(config, ranks);
  const BuiltModel model = build_model(config, InitialValues::deferred);
  RunPlan plan{
      .micro_batches = config.train.micro_batches(),
      .flops_per_step = model.flops_per_sample * static_cast<double>(config.train.global_batch)};
  for (const Parameter& p : model.module->parameters()) plan.parameters += p.data().numel();
  if (config.parallel.strategy == StrategyKind::fsdp)
    plan_fsdp(config, *model.module, ranks, plan);
  else
    plan_ddp(config, ranks, plan);
  if (const auto attention = attention_of(config);
      attention && config.device == DeviceKind::cuda && cuda::device_count() > 0)
    plan.attention = cuda::attention_memory(0, *attention);
  return plan;
}

}  // namespace lockstep::train
