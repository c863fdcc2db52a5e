// lockstep plan CONFIG [-n RANKS] [--set key=value]… [--json]: shows what a run would do, without
// running it.
#include <algorithm>
#include <cstdio>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/rank_options.h"
#include "core/base/number_text.h"
#include "train/parallel/device.h"
#include "train/parallel/run_plan.h"
#include "train/parallel/strategy.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  bool json = false;
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
  for (size_t r = 0; r < ranks; ++r)
    std::printf("  rank %-4zu    micro-batch%s %s\n", r, plan.leaves[r].size() == 1 ? "" : "es",
                leaves_text(plan.leaves[r]).c_str());
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

void print_json(const train::RunPlan& plan, const train::Config& config) {
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
  std::printf("%s\n", out.dump().c_str());
}

int plan(const Options& options) {
  train::Config config = options.load();
  // A plan is also made where the device is not.
  if (config.device == train::DeviceKind::automatic) config.device = train::resolved(config.device);
  const train::RunPlan plan = train::plan_run(config, std::max(1, options.ranks));
  options.json ? print_json(plan, config) : print(plan, config);
  return kDone;
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "plan", "who would compute what, and how much memory and traffic that takes");
  auto options = std::make_shared<Options>();
  options->add_to(*command, true);
  command->get_option("-n")->description("for this many ranks");
  command->add_flag("--json", options->json, "one JSON object");
  command->callback([options, &exit_code] { exit_code = plan(*options); });
}

}  // namespace lockstep::cli
