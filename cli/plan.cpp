// lockstep plan CONFIG [-n RANKS] [--set key=value]… [--device NAME] [--json]: shows what a run
// would do, and how long it would take, without running it.
#include <algorithm>
#include <cstdio>
#include <optional>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/rank_options.h"
#include "core/base/number_text.h"
#include "train/parallel/device.h"
#include "train/parallel/run_plan.h"
#include "train/parallel/strategy.h"
#include "train/plan/estimate.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  bool json = false;
  std::string device;  // empty: no estimate
  int nodes = 0;       // 0: as few as hold the ranks
  double link = 50;    // GB/s
  double price = 0;    // a rank's device and hour
};

// The estimates of a run, the best first.
struct Estimates {
  train::Hardware hardware;
  int nodes = 1;
  std::vector<train::Estimate> modes;
};

// "0, 4, 8", or "0 to 7" for a long range.
std::string leaves_text(const Progression& leaves) {
  if (leaves.step() == 1 && leaves.size() > 1) return str(leaves.front(), " to ", leaves.back());
  constexpr size_t kShown = 8;
  std::string text;
  size_t shown = 0;
  for (const int64_t leaf : leaves) {
    if (shown++ == kShown) return text + ", …";
    text += str(text.empty() ? "" : ", ", leaf);
  }
  return text;
}

// Progressions instead of a list: a step's micro-batches could have billions of entries.
nlohmann::ordered_json leaves_json(const std::vector<Progression>& all) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const Progression& leaves : all)
    out.push_back({{"first", leaves.front()}, {"count", leaves.size()}, {"step", leaves.step()}});
  return out;
}

// "parameters 3.3 MB, …": the planned parts that are not 0.
std::string memory_text(const train::MemoryBound& memory) {
  std::string text;
  for (size_t c = 0; c < kMemoryCategories; ++c)
    if (memory[c] > 0)
      text += str(name_of(static_cast<MemoryCategory>(c)), " ",
                  size_text(static_cast<double>(memory[c])), ", ");
  return text + "and activations";
}

std::string traffic_text(const fsdp::TrafficPlan& traffic) {
  std::string text;
  const auto add = [&](const char* what, int64_t bytes) {
    if (bytes > 0)
      text += str(text.empty() ? "" : ", ", what, " ", size_text(static_cast<double>(bytes)));
  };
  add("all_gather", traffic.gathered);
  add("reduce_scatter", traffic.reduced);
  add("all_reduce", traffic.replicas);
  return text.empty() ? "none" : text + "; sent in a step, and as much received";
}

void print(const train::RunPlan& plan, const train::Config& config) {
  const size_t ranks = plan.leaves.size();
  std::printf("model          %s, %lld parameters\n", str(config.model.kind).c_str(),
              static_cast<long long>(plan.parameters));
  std::printf("strategy       %s, %s\n", train::strategy_text(config.parallel).c_str(),
              count_text(static_cast<long long>(ranks), "rank").c_str());
  std::printf("device         %s\n", str(config.device).c_str());
  std::printf("step           %s of %s, %.3g floating-point operations\n",
              count_text(plan.micro_batches, "micro-batch", "es").c_str(),
              count_text(config.train.micro_batch, "sample").c_str(), plan.flops_per_step);
  constexpr size_t kRanksShown = 16;
  for (size_t r = 0; r < std::min(ranks, kRanksShown); ++r)
    std::printf("  rank %-4zu    micro-batch%s %s\n", r, plan.leaves[r].size() == 1 ? "" : "es",
                leaves_text(plan.leaves[r]).c_str());
  if (ranks > kRanksShown) std::printf("  and %zu more ranks\n", ranks - kRanksShown);
  std::printf("balance        the busiest rank does %.0f %% of an even share\n",
              100.0 * plan.imbalance());
  std::printf("memory a rank  %s%s\n", memory_text(plan.memory).c_str(),
              config.parallel.offload ? "; what is offloaded lies in files" : "");
  if (plan.attention)
    std::printf("attention      %s forward and %s backward, while it runs\n",
                size_text(static_cast<double>(plan.attention->forward)).c_str(),
                size_text(static_cast<double>(plan.attention->backward)).c_str());
  std::printf("traffic a rank %s\n", traffic_text(plan.traffic).c_str());
}

double hours(const train::Estimate& estimate) {
  return estimate.step_s() * static_cast<double>(estimate.config.train.steps) / 3600;
}

void print(const Estimates& estimates, size_t ranks, const Options& options) {
  const train::Estimate& best = estimates.modes.front();
  std::printf("estimate       on %s, %s on %s%s\n", estimates.hardware.name.c_str(),
              count_text(static_cast<long long>(ranks), "rank").c_str(),
              count_text(estimates.nodes, "node").c_str(),
              estimates.hardware.micro_batch_s > 0 ? "; a micro-batch was measured" : "");
  std::printf("  %-24s %9s %9s %9s %11s %6s %10s %10s\n", "mode", "ms a step", "compute", "exposed",
              best.config.model.is_language_model() ? "tokens/s" : "samples/s", "mfu", "memory",
              "micro-batch");
  for (const train::Estimate& each : estimates.modes)
    std::printf("  %-24s %9.1f %9.1f %9.1f %11.0f %5.1f%% %10s %10s%s\n", each.mode.c_str(),
                each.step_s() * 1e3, each.compute_s * 1e3, each.exposed_s * 1e3, each.items_per_s,
                each.mfu * 100, size_text(each.planned_bytes + each.activation_bytes).c_str(),
                each.largest_micro_batch > 0 ? str("<= ", each.largest_micro_batch).c_str() : "?",
                each.fits ? "" : "  does not fit");
  std::printf("fastest        %s%s: %s take %.3g hours", best.mode.c_str(),
              best.fits ? "" : " (but no mode fits)",
              count_text(best.config.train.steps, "step").c_str(), hours(best));
  if (options.price > 0)
    std::printf(" and cost $%.2f", hours(best) * options.price * static_cast<double>(ranks));
  std::printf("\n");
}

nlohmann::ordered_json json_of(const Estimates& estimates, size_t ranks, const Options& options) {
  nlohmann::ordered_json modes = nlohmann::ordered_json::array();
  for (const train::Estimate& each : estimates.modes) {
    modes.push_back({{"mode", each.mode},
                     {"step_ms", each.step_s() * 1e3},
                     {"compute_ms", each.compute_s * 1e3},
                     {"optimizer_ms", each.optimizer_s * 1e3},
                     {"communication_ms", each.communication_s * 1e3},
                     {"exposed_ms", each.exposed_s * 1e3},
                     {"items_per_s", each.items_per_s},
                     {"mfu", each.mfu},
                     {"planned_mb", each.planned_bytes / kMB},
                     {"activations_mb", each.activation_bytes / kMB},
                     {"fits", each.fits},
                     {"largest_micro_batch", each.largest_micro_batch},
                     {"hours", hours(each)}});
    if (options.price > 0)
      modes.back()["cost"] = hours(each) * options.price * static_cast<double>(ranks);
  }
  return {{"hardware", estimates.hardware.name}, {"nodes", estimates.nodes}, {"modes", modes}};
}

void print_json(const train::RunPlan& plan, const train::Config& config,
                const std::optional<Estimates>& estimates, const Options& options) {
  nlohmann::ordered_json memory = nlohmann::ordered_json::object();
  for (size_t c = 0; c < kMemoryCategories; ++c)
    if (plan.memory[c] != train::kUnplanned)
      memory[std::string(name_of(static_cast<MemoryCategory>(c)))] =
          static_cast<double>(plan.memory[c]) / kMB;
  nlohmann::ordered_json out = {
      {"ranks", plan.leaves.size()},
      {"strategy", train::strategy_text(config.parallel)},
      {"device", str(config.device)},
      {"parameters", plan.parameters},
      {"micro_batches", leaves_json(plan.leaves)},
      {"flops_per_step", plan.flops_per_step},
      {"memory_mb", memory},
      {"traffic_mb",
       {{"all_gather", static_cast<double>(plan.traffic.gathered) / kMB},
        {"reduce_scatter", static_cast<double>(plan.traffic.reduced) / kMB},
        {"all_reduce", static_cast<double>(plan.traffic.replicas) / kMB}}}};
  if (plan.attention)
    out["attention_mb"] = {{"forward", static_cast<double>(plan.attention->forward) / kMB},
                           {"backward", static_cast<double>(plan.attention->backward) / kMB}};
  if (estimates) out["estimate"] = json_of(*estimates, plan.leaves.size(), options);
  std::printf("%s\n", out.dump().c_str());
}

Estimates estimates_of(train::Config config, int ranks, const Options& options) {
  const bool cpu = options.device == "cpu";
  config.device = cpu ? train::DeviceKind::cpu : train::DeviceKind::cuda;
  train::check_config(config);
  Estimates all;
  if (cpu) {
    check(options.nodes <= 1,
          "--device cpu estimates ranks on this machine alone: leave out --nodes");
    all.hardware = train::measured_cpu(config, ranks);
  } else {
    all.hardware =
        train::gpu_hardware(options.device, config.train.precision, options.link).value();
    const int most = all.hardware.ranks_per_node;
    all.nodes = options.nodes > 0 ? options.nodes : (ranks + most - 1) / most;
    check(ranks % all.nodes == 0, ranks, " ranks do not spread evenly over ", all.nodes,
          " nodes: choose -n or --nodes so that they do");
    all.hardware.ranks_per_node = ranks / all.nodes;
    check(all.hardware.ranks_per_node <= most, "a node has ", most, " ", options.device,
          ", but --nodes ", options.nodes, " puts ", all.hardware.ranks_per_node, " on each");
  }
  all.modes = train::compare_modes(config, ranks, all.nodes, all.hardware);
  return all;
}

int plan(const Options& options) {
  train::Config config = options.load();
  // A plan is also made where the device is not.
  if (config.device == train::DeviceKind::automatic) config.device = train::resolved(config.device);
  check(!options.device.empty() || (options.nodes == 0 && options.price == 0),
        "--nodes and --price need --device: without one, nothing is estimated");
  const int ranks = std::max(1, options.ranks);
  const train::RunPlan plan = train::plan_run(config, ranks);
  std::optional<Estimates> estimates;
  if (!options.device.empty()) estimates = estimates_of(config, ranks, options);
  if (options.json) {
    print_json(plan, config, estimates, options);
    return kDone;
  }
  print(plan, config);
  if (estimates) print(*estimates, plan.leaves.size(), options);
  return kDone;
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "plan", "who would compute what, and how much memory and traffic that takes");
  auto options = std::make_shared<Options>();
  options->add_config_to(*command, true);
  command->add_option("-n,--ranks", options->ranks, "for this many ranks")
      ->option_text("N")
      ->check(whole_number(1, 1 << 17));
  command
      ->add_option("--device", options->device,
                   "also estimate time and memory of each way to share the model, on: cpu (this "
                   "machine, measured), h100, h200, b200")
      ->check(CLI::IsMember({"cpu", "h100", "h200", "b200"}));
  command->add_option("--nodes", options->nodes, "the ranks are on this many nodes")
      ->option_text("M")
      ->check(whole_number(1, 1 << 17));
  command->add_option("--link", options->link, "between nodes, GB/s a GPU in one direction")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  command->add_option("--price", options->price, "of a rank's device, $ an hour")
      ->check(CLI::Range(0.0, 1e6));
  command->add_flag("--json", options->json, "one JSON object");
  command->callback([options, &exit_code] { exit_code = plan(*options); });
}

}  // namespace lockstep::cli
