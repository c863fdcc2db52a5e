// lockstep bench step --config CONFIG [-n RANKS] [--set key=value]… [--json]
// lockstep bench comm [-n RANKS] [--backend NAME] [--json]
#include <cstdio>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/rank_options.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "train/bench/benchmarks.h"
#include "train/bench/comm_benchmark.h"
#include "train/parallel/device.h"
#include "train/parallel/groups.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  bool json = false;
  int64_t warmup = 3, steps = 12;
  std::string backend = "auto";
};

nlohmann::ordered_json memory_json(const train::MemoryReport& m) {
  nlohmann::ordered_json categories = nlohmann::ordered_json::object();
  for (size_t c = 0; c < kMemoryCategories; ++c)
    categories[std::string(name_of(static_cast<MemoryCategory>(c)))] = {
        {"bound_mb", static_cast<double>(m.bound[c]) / kMB},
        {"peak_mb", static_cast<double>(m.peak[c]) / kMB},
        {"planned", m.planned[c]}};
  return {{"bound_mb", static_cast<double>(m.bound_bytes) / kMB},
          {"peak_mb", static_cast<double>(m.peak_bytes) / kMB},
          {"of_bound", m.of_bound()},
          {"pinned_mb", static_cast<double>(m.pinned_bytes) / kMB},
          {"categories", categories}};
}

void print(const train::StepBenchmark& b, bool json) {
  const std::string speed_key = b.items_are_tokens ? "tokens_per_s" : "samples_per_s";
  if (json) {
    const nlohmann::ordered_json out = {{"step_ms", b.step_ms},
                                        {"step_ms_min", b.step_ms_min},
                                        {"step_ms_max", b.step_ms_max},
                                        {speed_key, b.items_per_s},
                                        {"mfu", b.mfu ? nlohmann::ordered_json(*b.mfu) : nullptr},
                                        {"peak_mem_mb", b.peak_mem_mb},
                                        {"comm_exposed_ms", b.comm_exposed_ms},
                                        {"replica_ms", b.replica_ms},
                                        {"ranks", b.ranks},
                                        {"threads", b.threads},
                                        {"strategy", b.strategy},
                                        {"backend", b.backend},
                                        {"devices", b.devices},
                                        {"precision", b.precision},
                                        {"parameters", b.parameters},
                                        {"steps", b.steps},
                                        {"loss", b.loss},
                                        {"memory", memory_json(b.memory)}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::printf("%s x %s, %s, %s, %s, %lld parameters, %s, on %s\n",
              count_text(b.ranks, "rank").c_str(), count_text(b.threads, "thread").c_str(),
              b.strategy.c_str(), b.backend.c_str(), b.precision.c_str(),
              static_cast<long long>(b.parameters), count_text(b.steps, "step").c_str(),
              b.devices.c_str());
  std::printf("  step          %10.1f ms   (fastest %.1f, slowest %.1f)\n", b.step_ms,
              b.step_ms_min, b.step_ms_max);
  std::printf("  speed         %10.0f %s/s\n", b.items_per_s,
              b.items_are_tokens ? "tokens" : "samples");
  if (b.mfu)
    std::printf("  mfu           %10.1f %%\n", *b.mfu * 100);
  else
    std::printf("  mfu           %10s     the peak of this device is not known\n", "?");
  std::printf("  peak memory   %10.1f MB a rank\n", b.peak_mem_mb);
  std::printf("  exposed comm  %10.2f ms a step\n", b.comm_exposed_ms);
  if (b.replica_ms > 0)
    std::printf("  replicas      %10.2f ms a step that has them\n", b.replica_ms);
  std::printf("%s", train::memory_table(b.memory).c_str());
}

void print(const std::vector<train::CommBenchmark>& all, const comm::ProcessGroup& group,
           bool json) {
  const auto memory = [](const train::CommBenchmark& b) {
    return b.allocated ? "allocated" : "ordinary";
  };
  if (json) {
    nlohmann::ordered_json out = {{"ranks", group.size()},
                                  {"backend", group.backend_name()},
                                  {"results", nlohmann::ordered_json::array()}};
    for (const auto& b : all)
      out["results"].push_back({{"op", b.op},
                                {"memory", memory(b)},
                                {"bytes", b.bytes},
                                {"us", b.us},
                                {"bus_gb_per_s", b.bus_gb_per_s},
                                {"memcpy_us", b.memcpy_us},
                                {"of_memcpy", b.of_memcpy}});
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::printf("%s, %s, f32; memcpy: a copy of as many bytes by every rank at once\n",
              count_text(group.size(), "rank").c_str(), group.backend_name().c_str());
  std::printf("%-16s %-10s %12s %12s %12s %12s %11s\n", "op", "memory", "bytes", "us", "bus GB/s",
              "memcpy us", "of memcpy");
  for (const auto& b : all)
    std::printf("%-16s %-10s %12lld %12.1f %12.2f %12.1f %10.0f%%\n", b.op.c_str(), memory(b),
                static_cast<long long>(b.bytes), b.us, b.bus_gb_per_s, b.memcpy_us,
                b.of_memcpy * 100);
}

int bench_step(const Options& options) {
  train::Config config = options.load();
  const Placement placement = place(options);
  if (placement.launch_here) {
    train::check_world_size(config, options.ranks);
    train::resolved(config.device);
    return launch_ranks({.ranks = options.ranks});
  }
  const Device device = train::take_device(config, placement.rank);
  const auto result =
      train::bench_step(config, train::make_group(config.parallel, placement.rank, device),
                        options.warmup, options.steps);
  if (placement.rank.rank == 0) print(result, options.json);
  return kDone;
}

int bench_comm(const Options& options) {
  const Placement placement = place(options);
  if (placement.launch_here) return launch_ranks({.ranks = options.ranks});
  const auto group = train::make_group(train::with_backend(options.backend), placement.rank);
  const auto results =
      train::bench_comm(*group, {4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 25 << 20});
  if (placement.rank.rank == 0) print(results, *group, options.json);
  return kDone;
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("bench", "measure training steps, collectives and checkpoints");
  command->require_subcommand(1);
  auto options = std::make_shared<Options>();

  CLI::App* step = command->add_subcommand(
      "step", "training steps: time, speed, MFU, memory, exposed communication");
  options->add_to(*step, false);
  step->add_option("--steps", options->steps, "measured steps")
      ->check(whole_number(1, 1 << 30))
      ->capture_default_str();
  step->add_option("--warmup", options->warmup, "unmeasured steps before these")
      ->check(whole_number(0, 1 << 30))
      ->capture_default_str();
  step->add_flag("--json", options->json, "one JSON object");
  step->callback([options, &exit_code] { exit_code = bench_step(*options); });

  CLI::App* comm = command->add_subcommand(
      "comm", "collectives: time and bus bandwidth, beside this machine's memcpy");
  comm->add_option("-n,--ranks", options->ranks, "start this many ranks on this host")
      ->check(whole_number(1, 1024));
  comm->add_option("--backend", options->backend, "how ranks talk")
      ->check(CLI::IsMember({"auto", "shm", "ucx", "mpi"}))
      ->capture_default_str();
  comm->add_flag("--json", options->json, "one JSON object");
  comm->callback([options, &exit_code] { exit_code = bench_comm(*options); });

  add_bench_checkpoint(*command, exit_code);
}

}  // namespace lockstep::cli
