// `lockstep run`: torchrun's command line and our own options, for any program. run_flags.cpp has
// the options, run.cpp what they mean.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/launch.h"

namespace CLI {
class App;
}

namespace lockstep::cli {

// The options as given. Empty or negative means not given.
struct RunFlags {
  std::string nproc = "1";
  std::string nodes = "1";
  std::string redirects = "0";
  std::string tee = "0";
  std::string local_ranks;
  std::string rdzv_backend;
  std::string rdzv_conf;
  std::string monitor_interval;
  std::string start_method;
  std::string logs_specs;
  std::string numa_binding;
  std::string signals;
  std::string event_log_handler;
  std::string shutdown_timeout;
  std::string output_filters;
  std::string error_filters;
  std::string hosts;
  std::string ssh = "ssh";
  bool until_eof = false;
  bool standalone = false;
  bool no_python = false;
  bool run_path = false;
  bool module = false;
  bool use_env = false;
  bool show_rank0 = false;
  double grace = -1;
  double stop_grace = -1;
  double join_timeout = 300;
  double spare_timeout = 10;
  std::optional<double> freeze_timeout;
  launcher::LaunchSpec spec;
  std::vector<std::string> command;
};

// Adds them, in both spellings ("--node-rank" and "--node_rank"). Those of torchrun can also be
// set by the environment: PET_NODE_RANK, PET_STANDALONE=1.
void add_run_flags(CLI::App& run, RunFlags& flags);

// The options that were given, by command line or environment, as words: "--nproc-per-node=2".
// Those of `without`, by their first long names, are left out.
std::vector<std::string> given_options(const CLI::App& run, const std::set<std::string>& without);

// The option of `known` that is most like `name`. Each has its dashes. Empty if none is similar.
std::string nearest_option(const std::string& name, const std::vector<std::string>& known);
// All names of the command's options, with their dashes.
std::vector<std::string> option_names(const CLI::App& run);

// Replaces beginnings of options before PROGRAM by their full names, as torchrun does: "--nnode=2",
// "--nproc 2". The options begin at words[first]. A beginning that fits several options is left as
// it is.
void complete_options(const CLI::App& run, std::vector<std::string>& words, size_t first);

// Parses "3" or "0:1,1:3": per local rank, the streams that are meant (1 standard output, 2
// standard error, 3 both). Throws UsageError.
std::vector<int> parse_streams(const std::string& text, int nproc);

// From how few to how many.
struct Range {
  int least = 1, most = 1;
};
// Parses "2" or "1:3" of the option `what`. Throws UsageError.
Range parse_range(const std::string& text, const std::string& what);

// Parses "4", "auto" or "cpu" (one rank per core), or "gpu" (one per visible NVIDIA device). Throws
// UsageError.
int parse_nproc(const std::string& text);

}  // namespace lockstep::cli
