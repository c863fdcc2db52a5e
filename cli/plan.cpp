// lockstep plan CONFIG [-n RANKS]: what a run would do, before it does it.
#include <cstdio>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "cli/rank_options.h"
#include "comm/reduce_tree.h"
#include "train/models/factory.h"

namespace lockstep::cli {
namespace {

double mib(double bytes) { return bytes / (1 << 20); }

int plan(const RankOptions& options) {
  const train::Config config = options.load();
  const int ranks = std::max(1, options.ranks);
  train::check_world_size(config, ranks);
  const train::BuiltModel model = train::build_model(config, train::InitialValues::deferred);
  double parameters = 0;
  for (const Parameter& p : model.module->parameters()) parameters += static_cast<double>(p.data().numel());

  const int64_t micro_batches = config.train.micro_batches();
  const comm::ReduceTree tree(micro_batches, ranks);
  int64_t largest = 0;
  for (int r = 0; r < ranks; ++r) largest = std::max(largest, tree.begin(r + 1) - tree.begin(r));
  // Partial sums of a rank's micro-batches: one more copy of the gradients for each level of its binary counter.
  int levels = 0;
  while ((int64_t{1} << levels) < largest) ++levels;
  const int states = config.optim.kind == "sgd" ? (config.optim.momentum > 0 ? 1 : 0) : 2;
  const double bytes = parameters * 4;

  std::printf("model         %s, %.0f parameters\n", config.model.kind.c_str(), parameters);
  std::printf("step          %lld micro-batches of %lld samples, %.3g floating-point operations\n", static_cast<long long>(micro_batches),
              static_cast<long long>(config.train.micro_batch), model.flops_per_sample * static_cast<double>(config.train.global_batch));
  for (int r = 0; r < ranks; ++r)
    std::printf("  rank %-4d   micro-batches %lld to %lld\n", r, static_cast<long long>(tree.begin(r)),
                static_cast<long long>(tree.begin(r + 1) - 1));
  std::printf("balance       the busiest rank does %.0f %% of an even share\n",
              100.0 * static_cast<double>(largest * ranks) / static_cast<double>(micro_batches));
  std::printf("memory a rank parameters %.1f MiB, gradients %.1f MiB, optimizer %.1f MiB, and activations\n", mib(bytes),
              mib(bytes * (1 + levels)), mib(bytes * states));
  std::printf("traffic       %.1f MiB sent and received by each rank in a step\n", mib(2.0 * bytes * (ranks - 1) / ranks));
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("plan", "who would compute what, and how much memory and traffic that takes");
  auto options = std::make_shared<RankOptions>();
  options->add_to(*command, true);
  command->callback([options, &exit_code] { exit_code = plan(*options); });
}

}  // namespace lockstep::cli
