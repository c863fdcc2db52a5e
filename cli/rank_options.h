// What `train` and `bench` share: a config with overrides, and the number of ranks. This process
// starts the ranks itself, or a launcher gave them.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/App.hpp>

#include "launcher/rank/rank_env.h"
#include "train/config/config.h"
#include "train/trace/session.h"

namespace lockstep::cli {

struct RankOptions {
  std::string config_file;
  std::vector<std::string> overrides;
  int ranks = 0;      // 0: not given
  int min_ranks = 0;  // with how few the job goes on; 0: it needs all

  // `ranges`: whether -n MIN:MAX is possible.
  void add_to(CLI::App& command, bool config_is_positional, bool ranges = false);
  // Adds the options of the config, without the number of ranks.
  void add_config_to(CLI::App& command, bool is_positional);
  train::Config load() const { return train::load_config(config_file, overrides); }
};

// --trace FILE and --trace-mb N: the timeline of `train` and `bench step`
// (docs/formats/trace.md).
struct TraceOptions : train::TraceOptions {
  void add_to(CLI::App& command);
  // Finds faults before ranks start. Throws UsageError or EnvironmentError.
  void check_before_start() const;
  // Begins to record if that was asked for. Collective. Otherwise null.
  std::unique_ptr<train::TraceSession> begin(comm::ProcessGroup& group) const;
  // For the process that started the ranks, after their end: puts together what they left if they
  // did not come to it. Returns what a user should know, or nothing.
  std::string gather(int ranks) const;
};

// Where the ranks of this process's job come from.
struct Placement {
  launcher::RankEnv rank;
  // Whether a launcher gave the ranks. A launcher that started a single process does not count,
  // unless it is our agent. If not given, this process may start ranks.
  bool given = false;
  // This process is not a rank: it starts options.ranks of them.
  bool launch_here = false;
};
// Throws UsageError if -n contradicts the launcher.
Placement place(const RankOptions& options);

struct OwnRanks {
  int ranks = 1;
  int min_ranks = 0;  // LaunchSpec::min_nproc
  std::string log_dir = {};
  // The ranks save and stop on these signals (stop_signal.h). Until the launch, this process
  // handles them.
  bool stop_signals = false;
  int max_restarts = 0;  // how often all ranks are restarted after a failure
  // How long the ranks may take to save and stop. The agent kills none of them earlier, and never
  // before its own default.
  std::chrono::milliseconds stop_budget = {};
  std::vector<std::pair<std::string, std::string>> job_values = {};  // LaunchSpec::job_values
};
// Starts copies of this program with the same arguments, and waits for them.
int launch_ranks(const OwnRanks& own);
// Whether launch_ranks() of another process started this process.
bool launched_by_us();
// The arguments of this process, quoted for a shell, without one option and its value ("--resume").
std::string command_line_without(std::string_view option);
// Runs this program with other arguments, shows what it says on standard error, and returns what it
// prints. Throws EnvironmentError if it cannot be run. `exit_code`: how it ended.
std::string output_of_this_program(const std::vector<std::string>& arguments, int& exit_code);
void remember_command_line(int argc, char** argv);

}  // namespace lockstep::cli
