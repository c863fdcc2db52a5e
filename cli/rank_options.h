// What `train` and `bench` share: a config with overrides, and the number of ranks – started here,
// or given by a launcher.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/App.hpp>

#include "launcher/rank/rank_env.h"
#include "train/config/config.h"

namespace lockstep::cli {

struct RankOptions {
  std::string config_file;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: not given

  void add_to(CLI::App& command, bool config_is_positional);
  // Without the number of ranks.
  void add_config_to(CLI::App& command, bool is_positional);
  train::Config load() const { return train::load_config(config_file, overrides); }
};

// Where the ranks of this process's job come from.
struct Placement {
  launcher::RankEnv rank;
  // Whether the ranks come from elsewhere. Else this process may start some: a launcher that
  // started one process alone is no launcher of ranks, unless it is our agent.
  bool given = false;
  bool launch_here = false;  // this process is no rank itself: it starts options.ranks of them
};
// Throws UsageError where -n contradicts the launcher.
Placement place(const RankOptions& options);

struct OwnRanks {
  int ranks = 1;
  std::string log_dir = {};
  // They save and stop on these signals (stop_signal.h), which this process has handled so far.
  bool stop_signals = false;
  int max_restarts = 0;  // how often all are started again after a failure
  // How long they may take to save and stop; the agent kills none of them before, nor before its
  // default.
  std::chrono::milliseconds stop_budget = {};
  std::vector<std::pair<std::string, std::string>> job_values = {};  // LaunchSpec::job_values
};
// Starts copies of this very program with the same arguments, and waits for them.
int launch_ranks(const OwnRanks& own);
// Whether launch_ranks() of another process started this one.
bool launched_by_us();
// The arguments of this process, quoted for a shell, without an option of one value ("--resume").
std::string command_line_without(std::string_view option);
void remember_command_line(int argc, char** argv);

}  // namespace lockstep::cli
