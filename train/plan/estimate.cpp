#include "train/plan/estimate.h"

#include <algorithm>
#include <cmath>

#include "train/parallel/strategy.h"

namespace lockstep::train {
namespace {

// Of 1 for a micro-batch: backward takes twice as long as forward.
constexpr double kBackward = 2.0 / 3.0;
// Adam and the gradient norm read and write 32 bytes a parameter: four times its two states.
constexpr double kAccessesOfState = 4.0;

double as_double(int64_t value) { return static_cast<double>(value); }

int rows_of(const Config& config) {
  const bool hybrid = config.parallel.shard.kind == ShardMode::Kind::hybrid;
  return hybrid ? static_cast<int>(config.parallel.mesh[0]) : 1;
}

bool is_sharded(const Config& config) { return config.parallel.strategy == StrategyKind::fsdp; }

// Rates of collectives among `ranks` ranks that are `stride` apart.
class Links {
 public:
  Links(const Hardware& hardware, int ranks, int stride)
      : local_(hardware.local_bytes_per_s),
        remote_(hardware.remote_bytes_per_s),
        ranks_(ranks),
        // Of these ranks, so many are on one node.
        together_(std::max(1, hardware.ranks_per_node / stride)) {}

  // Each byte enters a node once, over all of its links.
  double ring() const { return within() ? local_ : std::min(local_, remote_ * together_); }
  // Each rank sends its slices to their owners itself.
  double pairs() const {
    if (within()) return local_;
    return std::min(local_, remote_ * (ranks_ - 1) / (ranks_ - together_));
  }
  double call(double call_s) const {
    const double nodes = std::ceil(static_cast<double>(ranks_) / together_);
    return call_s * (1.0 + std::log2(nodes));
  }

 private:
  bool within() const { return ranks_ <= together_; }

  double local_, remote_;
  int ranks_, together_;
};

struct Traffic {
  double seconds = 0;
  double calls = 0;
};

double seconds_of(int64_t bytes, double rate) { return bytes == 0 ? 0 : as_double(bytes) / rate; }

// `rounds`: backward passes of a step.
Traffic traffic_of(const Config& config, const RunPlan& plan, const Hardware& hardware,
                   double rounds) {
  const int ranks = static_cast<int>(plan.leaves.size());
  if (ranks == 1) return {};
  const bool fast = config.parallel.reduction == ReductionKind::fast, sharded = is_sharded(config);
  const int rows = sharded ? rows_of(config) : ranks, columns = ranks / rows;
  const Links row(hardware, columns, 1), column(hardware, rows, columns);
  const auto summed = [&](const Links& links) { return fast ? links.ring() : links.pairs(); };
  Traffic all;
  all.seconds = seconds_of(plan.traffic.gathered, row.ring()) +
                seconds_of(plan.traffic.reduced, summed(row)) +
                seconds_of(plan.traffic.replicas / 2, summed(column)) +
                seconds_of(plan.traffic.replicas / 2, column.ring());
  if (!sharded) {
    all.calls = std::ceil(as_double(plan.parameters) * 4 / (config.parallel.bucket_mb * 1e6));
    all.seconds += all.calls * column.call(hardware.call_s);
    return all;
  }
  const double units = as_double(config.model.layers) + 1;
  const bool kept = config.parallel.shard.kind == ShardMode::Kind::grad ||
                    config.parallel.shard.kind == ShardMode::Kind::optim;
  const bool once = config.parallel.shard.kind == ShardMode::Kind::optim;
  all.calls = units * ((kept ? 1 : 2 * rounds) + (once ? 1 : rounds));
  all.seconds += all.calls * row.call(hardware.call_s);
  if (rows > 1) all.seconds += units * column.call(hardware.call_s);
  return all;
}

double recomputed(const TrainConfig& train) {
  return train.recompute == Recompute::none ? 1.0
                                            : 1.0 + 1.0 / (3.0 * as_double(train.recompute_every));
}

void add_memory(Estimate& estimate, const RunPlan& plan, const Hardware& hardware) {
  for (const int64_t category : plan.memory)
    estimate.planned_bytes += as_double(std::max<int64_t>(category, 0));
  estimate.activation_bytes = activation_bytes(estimate.config);
  estimate.fits = estimate.planned_bytes + estimate.activation_bytes <= hardware.memory_bytes;
  const double left = hardware.memory_bytes - estimate.planned_bytes;
  if (left > 0 && estimate.activation_bytes > 0)
    estimate.largest_micro_batch = static_cast<int64_t>(
        left / estimate.activation_bytes * as_double(estimate.config.train.micro_batch));
}

// The modes to compare, by their keys.
std::vector<Config> modes_of(const Config& config, int ranks, int nodes) {
  std::vector<Config> modes{config};
  const auto add = [&](StrategyKind strategy, ShardMode shard, std::array<int64_t, 2> mesh = {}) {
    Config mode = config;
    mode.parallel.strategy = strategy;
    mode.parallel.shard = shard;
    mode.parallel.mesh = mesh;
    if (strategy != StrategyKind::fsdp) mode.parallel.wrap = "blocks";
    const bool known = std::any_of(modes.begin(), modes.end(), [&](const Config& other) {
      return strategy_text(other.parallel) == strategy_text(mode.parallel);
    });
    if (!known) modes.push_back(std::move(mode));
  };
  if (ranks == 1) return modes;
  using Kind = ShardMode::Kind;
  add(StrategyKind::ddp, {});
  for (const Kind kind : {Kind::full, Kind::grad, Kind::optim})
    add(StrategyKind::fsdp, {.kind = kind});
  if (nodes > 1 && ranks % nodes == 0 && ranks > nodes)
    add(StrategyKind::fsdp, {.kind = Kind::hybrid}, {nodes, ranks / nodes});
  return modes;
}

}  // namespace

double activation_bytes(const Config& config) {
  const ModelConfig& m = config.model;
  if (!m.is_language_model()) return 0;
  const double dim = as_double(m.dim), tokens = as_double(config.train.micro_batch * m.block);
  const double size = as_double(size_of(dtype_of(config.train.precision)));
  const bool llama = m.kind == ModelKind::llama;
  const double wide = llama ? as_double(m.feed_forward_width()) : 4 * dim;
  const double keys = llama ? dim * as_double(m.key_value_heads()) / as_double(m.heads) : dim;
  // Two inputs of norms, q, k, v and the heads' outputs, and what the feed-forward part widens.
  const double block = 2 * dim + (dim + 2 * keys) + dim + (llama ? 3 : 1) * wide;
  const double kept = config.train.recompute == Recompute::none
                          ? 1.0
                          : 1.0 - 1.0 / as_double(config.train.recompute_every);
  const double blocks = as_double(m.layers) * (kept * block + (1 - kept) * dim);
  // Beside them: the logits with their gradient, or what a block needs while it runs backward.
  const double beside = std::max(2 * as_double(m.vocab), 2 * wide + (kept < 1 ? block : 0));
  return tokens * size * (blocks + beside);
}

Estimate estimate_step(const Config& config, const RunPlan& plan, const Hardware& hardware) {
  size_t busiest = 0;
  for (const Progression& leaves : plan.leaves) busiest = std::max(busiest, leaves.size());
  const auto rounds = static_cast<double>(busiest);
  const double micro_flops = plan.flops_per_step / as_double(plan.micro_batches);
  const double micro_s =
      hardware.micro_batch_s > 0
          ? hardware.micro_batch_s * hardware.ranks_per_core
          : micro_flops * recomputed(config.train) / hardware.flops_per_s / hardware.efficiency;
  Estimate estimate{.mode = strategy_text(config.parallel), .config = config};
  add_memory(estimate, plan, hardware);
  estimate.compute_s = micro_s * rounds;
  const auto states = plan.memory[static_cast<size_t>(MemoryCategory::optimizer)];
  estimate.optimizer_s = kAccessesOfState * as_double(std::max<int64_t>(states, 0)) /
                         hardware.memory_bytes_per_s * hardware.ranks_per_core;
  const Traffic traffic = traffic_of(config, plan, hardware, rounds);
  estimate.communication_s = traffic.seconds;
  if (traffic.calls > 0) {
    // DDP sums in the last backward pass; a sharded model gathers and sums all the time. Nothing
    // hides the last call.
    const double hidden = !hardware.overlaps   ? 0
                          : is_sharded(config) ? estimate.compute_s
                                               : kBackward * micro_s;
    const double last = traffic.seconds / traffic.calls;
    estimate.exposed_s =
        hardware.overlaps ? std::max(traffic.seconds - hidden, last) : traffic.seconds;
  }
  const double step_s = estimate.step_s(), ranks = static_cast<double>(plan.leaves.size());
  estimate.mfu = plan.flops_per_step / step_s / (hardware.flops_per_s * ranks);
  const double samples = as_double(config.train.global_batch);
  estimate.items_per_s =
      samples * (config.model.is_language_model() ? as_double(config.model.block) : 1.0) / step_s;
  return estimate;
}

std::vector<Estimate> compare_modes(const Config& config, int ranks, int nodes,
                                    const Hardware& hardware) {
  std::vector<Estimate> all;
  for (const Config& mode : modes_of(config, ranks, nodes))
    all.push_back(estimate_step(mode, plan_run(mode, ranks), hardware));
  std::stable_sort(all.begin(), all.end(), [](const Estimate& a, const Estimate& b) {
    return a.fits != b.fits ? a.fits : a.step_s() < b.step_s();
  });
  return all;
}

}  // namespace lockstep::train
