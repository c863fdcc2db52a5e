// lockstep bench step --config CONFIG [-n RANKS] [--set key=value]… [--json]
// lockstep bench scale --config CONFIG [-n 1,2,4] [--weak] [--json]
// lockstep bench comm [-n RANKS] [--backend NAME] [--json]
#include <cstdio>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/rank_options.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "core/device/probe.h"
#include "train/bench/benchmarks.h"
#include "train/bench/comm_benchmark.h"
#include "train/parallel/device.h"
#include "train/parallel/groups.h"
#include "train/trace/profile.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  bool json = false;
  int64_t warmup = 3, steps = 12;
  std::string backend = "auto";
  TraceOptions trace = {};
  bool profile = false;
};

struct ScaleOptions : Options {
  std::vector<int> numbers = {1, 2};  // of ranks
  bool weak = false;
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

nlohmann::ordered_json rows_json(const std::vector<train::ProfileRow>& rows) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const train::ProfileRow& row : rows)
    out.push_back({{"name", row.name},
                   {"calls", row.calls},
                   {"ms", row.ms},
                   {"share", row.share},
                   {"gflop_per_s", row.gflop_per_s},
                   {"gb_per_s", row.gb_per_s},
                   {"of_limit", row.of_limit ? nlohmann::ordered_json(*row.of_limit) : nullptr}});
  return out;
}

nlohmann::ordered_json profile_json(const train::ProfileReport& report) {
  return {{"step_ms", report.step_ms},
          {"operations_ms", report.operations_ms},
          {"wait_ms", report.wait_ms},
          {"other_ms", report.other_ms},
          {"limit_gflop_per_s", report.limits.flops_per_s / 1e9},
          {"limit_gb_per_s", report.limits.bytes_per_s / 1e9},
          {"operations", rows_json(report.operations)},
          {"calls", rows_json(report.calls)}};
}

void print(const train::StepBenchmark& b, const std::optional<train::ProfileReport>& profile,
           bool json) {
  const std::string speed_key = b.items_are_tokens ? "tokens_per_s" : "samples_per_s";
  if (json) {
    nlohmann::ordered_json out = {{"step_ms", b.step_ms},
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
    if (profile) out["profile"] = profile_json(*profile);
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
  if (profile) std::printf("%s", train::profile_table(*profile).c_str());
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

void check_step_options(const Options& options, const train::Config& config) {
  options.trace.check_before_start();
  check(!options.profile || options.trace.file.empty(),
        "--profile and --trace both record, each in its own way: give one of them");
  check(!options.profile || train::resolved(config.device) == train::DeviceKind::cpu,
        "--profile measures operations of a CPU, but this run's device is cuda, where a call "
        "returns before its work is done: use --trace, which shows the host's calls, or add --set "
        "device=cpu");
}

// What this rank's threads can do.
train::Limits limits_of(const train::Config& config) {
  const DType dtype = train::dtype_of(config.train.precision);
  return {.flops_per_s = probe_peak_gflops(dtype) * 1e9 * num_threads(),
          .bytes_per_s = probe_memory_bytes_per_s()};
}

int bench_step(const Options& options) {
  train::Config config = options.load();
  const Placement placement = place(options);
  if (placement.launch_here) {
    train::check_world_size(config, options.ranks);
    train::resolved(config.device);
    check_step_options(options, config);
    const int code = launch_ranks({.ranks = options.ranks});
    if (code != kDone) std::fputs(options.trace.gather(options.ranks).c_str(), stderr);
    return code;
  }
  check_step_options(options, config);
  const Device device = train::take_device(config, placement.rank);
  const std::shared_ptr group = train::make_group(config.parallel, placement.rank, device);
  std::unique_ptr<train::TraceSession> session;
  train::Profile profile;
  const train::StepWatch watch{.begin =
                                   [&] {
                                     session = options.trace.begin(*group);
                                     if (options.profile) trace::start(profile);
                                   },
                               .stepped =
                                   [&] {
                                     if (session) session->stepped();
                                     trace::drain();
                                   }};
  const auto result = train::bench_step(config, group, options.warmup, options.steps, watch);
  if (options.profile) trace::stop();
  const std::string timeline = session ? session->finish() : "";
  // All ranks measure memory at once, as they share it.
  auto report = options.profile ? std::optional(profile.report(limits_of(config))) : std::nullopt;
  // Alone, every call is the identity.
  if (report && group->size() == 1) report->calls.clear();
  if (placement.rank.rank == 0) {
    print(result, report, options.json);
    if (!options.json) std::fputs(timeline.c_str(), stdout);
  }
  return kDone;
}

// One number of ranks of `bench scale`.
struct ScalePoint {
  int ranks;
  nlohmann::json step;  // as `bench step --json` prints it
};

void print_scale(const std::vector<ScalePoint>& points, bool weak) {
  const auto speed = [](const ScalePoint& point) {
    const char* key = point.step.contains("tokens_per_s") ? "tokens_per_s" : "samples_per_s";
    return point.step.at(key).get<double>();
  };
  std::printf("%s scaling\n%6s %12s %14s %10s %12s %16s\n", weak ? "weak" : "strong", "ranks",
              "ms a step", points.front().step.contains("tokens_per_s") ? "tokens/s" : "samples/s",
              "speed-up", "efficiency", "exposed comm ms");
  const ScalePoint& first = points.front();
  for (const ScalePoint& point : points) {
    const double speed_up = speed(point) / speed(first);
    std::printf("%6d %12.1f %14.0f %10.2f %11.0f%% %16.2f\n", point.ranks,
                point.step.at("step_ms").get<double>(), speed(point), speed_up,
                speed_up * first.ranks / point.ranks * 100,
                point.step.at("comm_exposed_ms").get<double>());
  }
}

int bench_scale(const ScaleOptions& options) {
  const train::Config config = options.load();
  check(!place(options).given,
        "bench scale starts ranks itself, but a launcher has started this process: run it alone");
  const auto batch_for = [&](int ranks) {
    return config.train.global_batch * (options.weak ? ranks : 1);
  };
  for (const int ranks : options.numbers) {
    train::Config each = config;
    each.train.global_batch = batch_for(ranks);
    train::check_world_size(each, ranks);
  }
  std::vector<ScalePoint> points;
  for (const int ranks : options.numbers) {
    std::vector<std::string> words = {"bench",
                                      "step",
                                      "--config",
                                      options.config_file,
                                      "--json",
                                      "--steps",
                                      str(options.steps),
                                      "--warmup",
                                      str(options.warmup),
                                      "-n",
                                      str(ranks)};
    for (const std::string& set : options.overrides) words.insert(words.end(), {"--set", set});
    words.insert(words.end(), {"--set", str("train.global_batch=", batch_for(ranks))});
    int code = kDone;
    const std::string output = output_of_this_program(words, code);
    if (code != kDone) return code;
    points.push_back({ranks, nlohmann::json::parse(output)});
  }
  if (!options.json) {
    print_scale(points, options.weak);
    return kDone;
  }
  nlohmann::json out = nlohmann::json::array();
  for (const ScalePoint& point : points) out.push_back(point.step);
  std::printf("%s\n", out.dump().c_str());
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
  step->add_flag("--profile", options->profile,
                 "also each operation's time, speed, and part of what the machine can do");
  options->trace.add_to(*step);
  step->callback([options, &exit_code] { exit_code = bench_step(*options); });

  auto scaling = std::make_shared<ScaleOptions>();
  CLI::App* scale =
      command->add_subcommand("scale", "the time of a training step as a function of ranks");
  scaling->add_config_to(*scale, false);
  scale->add_option("-n,--ranks", scaling->numbers, "numbers of ranks: 1,2,4")
      ->option_text("N,…")
      ->delimiter(',')
      ->check(whole_number(1, 1024))
      ->capture_default_str();
  scale->add_flag("--weak", scaling->weak,
                  "train.global_batch for each rank, instead of for all of them");
  scale->add_option("--steps", scaling->steps, "measured steps of each")
      ->check(whole_number(1, 1 << 30))
      ->capture_default_str();
  scale->add_option("--warmup", scaling->warmup, "unmeasured steps before these")
      ->check(whole_number(0, 1 << 30))
      ->capture_default_str();
  scale->add_flag("--json", scaling->json, "a list of what `bench step --json` prints");
  scale->callback([scaling, &exit_code] { exit_code = bench_scale(*scaling); });

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
