// lockstep plan CONFIG [-n RANKS]: what a run would do, before it does it.
#include <algorithm>
#include <cstdio>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "cli/rank_options.h"
#include "comm/reduce_tree.h"
#include "fsdp/memory_plan.h"
#include "train/models/factory.h"
#include "train/strategy.h"

namespace lockstep::cli {
namespace {

double mib(double bytes) { return bytes / (1 << 20); }

// "0, 4, 8", or "0 to 7" where there are many.
std::string leaves_text(const std::vector<int64_t>& leaves) {
  std::string text;
  const bool block = leaves.back() - leaves.front() + 1 == static_cast<int64_t>(leaves.size());
  if (block && leaves.size() > 1) return str(leaves.front(), " to ", leaves.back());
  constexpr size_t kShown = 8;
  for (size_t i = 0; i < std::min(leaves.size(), kShown); ++i) text += str(i ? ", " : "", leaves[i]);
  return leaves.size() > kShown ? text + ", …" : text;
}

struct Shares {
  std::vector<std::vector<int64_t>> leaves;  // by rank
  int columns = 1;                           // ranks that share one copy of the model
  fsdp::MemoryPlan memory;                   // of the rank that needs most
};

// Partial sums of a rank's micro-batches: one more copy of the gradients for each level of its binary counter.
int levels(int64_t leaves) {
  int levels = 0;
  while ((int64_t{1} << levels) < leaves) ++levels;
  return levels;
}

Shares shares_of(const train::Config& config, nn::Module& module, int64_t bytes, int ranks) {
  const int64_t micro_batches = config.train.micro_batches();
  Shares shares;
  if (config.parallel.strategy == "fsdp") {
    shares.columns = config.parallel.shard == "hybrid" ? static_cast<int>(config.parallel.mesh[1]) : ranks;
    const fsdp::Options options = train::fsdp_options(config, module);
    for (int r = 0; r < ranks; ++r) {
      const fsdp::Place place{ranks / shares.columns, shares.columns, r / shares.columns, r % shares.columns};
      const fsdp::Assignment mine = fsdp::assign(micro_batches, place, options.accumulate == fsdp::Accumulate::in_shards);
      const fsdp::MemoryPlan memory = fsdp::plan_memory(module, shares.columns, mine, options);
      if (memory.gradients > shares.memory.gradients) shares.memory = memory;
      shares.leaves.push_back(mine.leaves);
    }
    return shares;
  }
  const comm::ReduceTree tree(micro_batches, ranks);
  for (int r = 0; r < ranks; ++r) {
    shares.leaves.emplace_back();
    for (int64_t leaf = tree.begin(r); leaf < tree.begin(r + 1); ++leaf) shares.leaves.back().push_back(leaf);
    const int64_t leaves = tree.begin(r + 1) - tree.begin(r);
    shares.memory = {.parameters = bytes, .gradients = std::max(shares.memory.gradients, bytes * (1 + levels(leaves)))};
  }
  return shares;
}

int plan(const RankOptions& options) {
  const train::Config config = options.load();
  const int ranks = std::max(1, options.ranks);
  train::check_world_size(config, ranks);
  const train::BuiltModel model = train::build_model(config, train::InitialValues::deferred);
  int64_t parameters = 0;
  for (const Parameter& p : model.module->parameters()) parameters += p.data().numel();

  const int64_t micro_batches = config.train.micro_batches();
  const Shares shares = shares_of(config, *model.module, parameters * size_of(DType::f32), ranks);
  size_t largest = 0;
  for (const auto& leaves : shares.leaves) largest = std::max(largest, leaves.size());
  const int states = config.optim.kind == "sgd" ? (config.optim.momentum > 0 ? 1 : 0) : 2;
  const double bytes = static_cast<double>(parameters) * size_of(DType::f32);

  std::printf("model         %s, %lld parameters\n", config.model.kind.c_str(), static_cast<long long>(parameters));
  std::printf("step          %lld micro-batches of %lld samples, %.3g floating-point operations\n", static_cast<long long>(micro_batches),
              static_cast<long long>(config.train.micro_batch), model.flops_per_sample * static_cast<double>(config.train.global_batch));
  for (int r = 0; r < ranks; ++r)
    std::printf("  rank %-4d   micro-batches %s\n", r, leaves_text(shares.leaves[static_cast<size_t>(r)]).c_str());
  std::printf("balance       the busiest rank does %.0f %% of an even share\n",
              100.0 * static_cast<double>(largest) * ranks / static_cast<double>(micro_batches));
  const bool sharded = config.parallel.strategy == "fsdp";
  const auto mib_of = [](int64_t size) { return mib(static_cast<double>(size)); };
  std::printf("memory a rank parameters %.1f MiB, ", mib_of(shares.memory.parameters));
  if (sharded) std::printf("gathered %.1f MiB, ", mib_of(shares.memory.gathered));
  std::printf("gradients %.1f MiB, optimizer %.1f MiB, and activations%s\n", mib_of(shares.memory.gradients),
              config.parallel.offload ? 0.0 : mib(bytes / shares.columns * states),
              config.parallel.offload ? "; what is offloaded lies in files" : "");
  if (!sharded) std::printf("traffic       %.1f MiB sent and received by each rank in a step\n", mib(2.0 * bytes * (ranks - 1) / ranks));
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("plan", "who would compute what, and how much memory and traffic that takes");
  auto options = std::make_shared<RankOptions>();
  options->add_to(*command, true);
  command->get_option("-n")->description("for this many ranks");
  command->callback([options, &exit_code] { exit_code = plan(*options); });
}

}  // namespace lockstep::cli
