// lockstep bench checkpoint [-n RANKS] [--mb N] [--dir DIR] [--json]
#include <cstdio>
#include <fstream>
#include <limits>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/rank_options.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "train/bench/checkpoint_benchmark.h"
#include "train/parallel/groups.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  bool json = false;
  int64_t megabytes = 128;
  int repetitions = 5;
  std::string backend = "auto", dir = ".";
};

constexpr double kTooNoisy = 0.05;  // of a save; more noise than this hides a relevant cost

void print(const train::CheckpointBenchmark& b, bool json) {
  const double mb = static_cast<double>(b.bytes) / kMB;
  if (json) {
    const nlohmann::ordered_json out = {{"ranks", b.ranks},
                                        {"threads", b.threads},
                                        {"mb", mb},
                                        {"save_s", b.save_s},
                                        {"save_unsynced_s", b.save_unsynced_s},
                                        {"load_s", b.load_s},
                                        {"load_cold_s", b.load_cold_s},
                                        {"plain_write_s", b.plain_write_s},
                                        {"summed_write_s", b.summed_write_s},
                                        {"stall_s", b.stall_s},
                                        {"memcpy_s", b.memcpy_s},
                                        {"checksum_s", b.checksum_s},
                                        {"checksum_share", b.checksum_share()},
                                        {"noise_share", b.noise_share()}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  const auto line = [&](const char* what, double seconds, const char* note) {
    if (seconds > 0)
      std::printf("  %-22s %9.3f s %9.0f MB/s%s%s\n", what, seconds, mb / seconds,
                  *note ? "   " : "", note);
  };
  std::printf("%s on %s x %s\n", size_text(static_cast<double>(b.bytes)).c_str(),
              count_text(b.ranks, "rank").c_str(), count_text(b.threads, "thread").c_str());
  line("save", b.save_s, "until everything is on disk");
  line("  plain write", b.plain_write_s, "the same bytes without checksums: the disk's own speed");
  line("  with checksums", b.summed_write_s, "these bytes with their checksums, measured in turn");
  line("  not synced", b.save_unsynced_s, "a save that does not wait for its syncs");
  line("load", b.load_s, "from the page cache, every byte verified");
  line("  cold", b.load_cold_s, "from disk");
  line("stall of async save", b.stall_s, "");
  line("  memcpy", b.memcpy_s, "of the same state, by all ranks at once");
  line("checksums alone", b.checksum_s, "SHA-256 and XXH3");
  std::printf(
      "  %-22s %8.1f %%   of a save to disk (\"with checksums\" less \"plain write\"); equal "
      "writes differed by %.1f %%%s\n",
      "what checksums cost", b.checksum_share() * 100, b.noise_share() * 100,
      b.noise_share() > kTooNoisy
          ? ": too much to tell; leave the machine idle, or give more --repetitions"
          : "");
}

// Memory that programs may still use, by the kernel's estimate. No limit if it gives none.
int64_t available_memory() {
  std::ifstream in("/proc/meminfo");
  int64_t kib = 0;
  for (std::string word; in >> word;)
    if (word == "MemAvailable:" && in >> kib) return kib * 1024;
  return std::numeric_limits<int64_t>::max();
}

// The memory holds the state, and the copy of it that a save in the background writes. A refusal is
// better than an out-of-memory kill, which may hit other programs too.
void check_memory(const Options& options, int ranks_here, int ranks) {
  const int64_t needed = 2 * options.megabytes * 1'000'000 / ranks * ranks_here,
                available = available_memory();
  const auto text = [](int64_t bytes) { return size_text(static_cast<double>(bytes)); };
  check(needed <= available, "[bench] --mb ", options.megabytes, " takes ", text(needed),
        " of this host's memory, and ", text(available), " are available: choose a smaller state");
}

int bench(const Options& options) {
  const Placement placement = place(options);
  if (placement.launch_here || placement.rank.local_rank == 0)
    check_memory(options, placement.launch_here ? 1 : placement.rank.local_size,
                 placement.launch_here ? 1 : placement.rank.size);
  if (placement.launch_here) return launch_ranks({.ranks = options.ranks});
  const auto group = train::make_group(train::with_backend(options.backend), placement.rank);
  const auto result = train::bench_checkpoint(*group, options.dir, options.megabytes * 1'000'000,
                                              options.repetitions);
  if (placement.rank.rank == 0) print(result, options.json);
  return kDone;
}

}  // namespace

void add_bench_checkpoint(CLI::App& bench_command, int& exit_code) {
  CLI::App* command = bench_command.add_subcommand(
      "checkpoint", "checkpoints: save, load and stall, beside the disk and memcpy");
  auto options = std::make_shared<Options>();
  command->add_option("-n,--ranks", options->ranks, "start this many ranks on this host")
      ->check(whole_number(1, 1024));
  command->add_option("--mb", options->megabytes, "size of the state in MB, over all ranks")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--dir", options->dir,
                   "a folder on the disk to measure; what is written is removed")
      ->capture_default_str();
  command
      ->add_option("--repetitions", options->repetitions, "of each measurement; medians are shown")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  command->add_option("--backend", options->backend, "how ranks talk")
      ->check(CLI::IsMember({"auto", "shm", "ucx", "mpi"}))
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object");
  command->callback([options, &exit_code] { exit_code = bench(*options); });
}

}  // namespace lockstep::cli
