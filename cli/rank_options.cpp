#include "cli/rank_options.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <sys/wait.h>
#include <unistd.h>

#include "cli/option_checks.h"
#include "cli/process/stop_signal.h"
#include "core/base/cores.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "launcher/launch.h"
#include "train/trace/merge.h"

namespace lockstep::cli {
namespace {

constexpr const char* kOwnRanks = "LOCKSTEP_OWN_RANKS";

std::vector<std::string>& arguments() {
  static std::vector<std::string> all;
  return all;
}

std::string quoted(const std::string& word) {
  if (!word.empty() &&
      word.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+%@") ==
          std::string::npos)
    return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Ranks that mpirun or srun started share the host's cores, unless each was bound to cores of its
// own. They always share the CPU quota of their container. More threads than cores would only wait
// for one another. Our own agent sets OMP_NUM_THREADS.
void share_cores(const launcher::RankEnv& rank) {
  const char* given = std::getenv("OMP_NUM_THREADS");
  if (rank.local_size <= 1 || (given && *given)) return;
  const double cores = bound_cores();
  const bool own = cores < static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
  const double share =
      std::min(own ? cores : cores / rank.local_size, std::ceil(cpu_quota()) / rank.local_size);
  set_num_threads(std::max(1, static_cast<int>(share)));
}

}  // namespace

void RankOptions::add_config_to(CLI::App& command, bool is_positional) {
  command
      .add_option(is_positional ? "config" : "--config", config_file,
                  "YAML file (docs/configuration.md lists the keys)")
      ->required()
      ->option_text("FILE");
  command.add_option("--set", overrides, "set a key: train.steps=100 (repeatable)")
      ->option_text("KEY=VALUE")
      ->allow_extra_args(false);
}

void RankOptions::add_to(CLI::App& command, bool config_is_positional, bool ranges) {
  add_config_to(command, config_is_positional);
  const auto take = [this, ranges](const std::string& text) {
    const size_t colon = ranges ? text.find(':') : std::string::npos;
    const CLI::Validator number = whole_number(1, 1024);
    for (std::string part : {text.substr(0, colon), text.substr(colon + 1)})
      if (const std::string wrong = number(part); !wrong.empty())
        throw CLI::ValidationError("--ranks", wrong);
    ranks = std::stoi(text.substr(colon == std::string::npos ? 0 : colon + 1));
    min_ranks = colon == std::string::npos ? 0 : std::stoi(text);
    if (min_ranks > ranks)
      throw CLI::ValidationError("--ranks", str("expected MIN:MAX, got '", text, "'"));
  };
  command
      .add_option_function<std::string>(
          "-n,--ranks", take,
          ranges ? "start this many ranks on this host; MIN:MAX goes on with fewer"
                 : "start this many ranks on this host")
      ->option_text(ranges ? "N|MIN:MAX" : "N");
}

void TraceOptions::add_to(CLI::App& command) {
  CLI::Option* trace = command.add_option("--trace", file,
                                          "write a timeline of all ranks, for ui.perfetto.dev or "
                                          "chrome://tracing");
  trace->option_text("FILE");
  command.add_option("--trace-mb", limit_mb, "the timeline ends when it has this size")
      ->option_text("MB")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str()
      ->needs(trace);
}

void TraceOptions::check_before_start() const {
  if (!file.empty()) train::check_trace_file(file);
}

std::unique_ptr<train::TraceSession> TraceOptions::begin(comm::ProcessGroup& group) const {
  return file.empty() ? nullptr : std::make_unique<train::TraceSession>(*this, group);
}

std::string TraceOptions::gather(int ranks) const {
  if (file.empty()) return {};
  train::Merged merged;
  try {
    merged = train::merge_parts(file, ranks);
  } catch (const EnvironmentError& e) {
    return str("warning: the timelines of the ranks stay apart: ", e.what(), "\n");
  }
  if (merged.ranks.empty()) return {};
  std::string text = str("timeline   ", file, " (what the ranks left");
  if (!merged.missing.empty())
    text += str("; nothing of ", count_text(static_cast<long long>(merged.missing.size()), "rank"));
  return text + ")\n";
}

Placement place(const RankOptions& options) {
  Placement placement{.rank = launcher::detect_rank()};
  share_cores(placement.rank);
  const launcher::RankEnv& rank = placement.rank;
  placement.given = rank.size > 1 || launcher::has_agent();
  if (placement.given) {
    const int least = options.min_ranks > 0 ? options.min_ranks : options.ranks;
    check(options.ranks == 0 || (rank.size <= options.ranks && rank.size >= least), "-n ",
          options.ranks, " contradicts the launcher (", rank.source, "), which started ", rank.size,
          " ranks; leave out -n");
    return placement;
  }
  placement.launch_here = options.ranks > 1;
  return placement;
}

int launch_ranks(const OwnRanks& own) {
  launcher::LaunchSpec spec;
  spec.argv = arguments();
  spec.program = "/proc/self/exe";  // works however this process was found
  spec.environment = {{kOwnRanks, "1"}};
  spec.nproc = own.ranks;
  spec.min_nproc = own.min_ranks;
  spec.log_dir = own.log_dir;
  spec.hold_stop_signals = own.stop_signals;
  spec.max_restarts = own.max_restarts;
  spec.job_values = own.job_values;
  // Adds the grace: ranks also have to end after the save.
  spec.stop_grace = std::max(spec.stop_grace, own.stop_budget + spec.grace);
  spec.screen = launcher::Screen::rank0;
  spec.failure_code = launcher::FailureCode::lockstep;
  if (!own.stop_signals) return launcher::launch(spec).exit_code;
  return hand_stop_signals_to([&] { return launcher::launch(spec).exit_code; });
}

bool launched_by_us() { return std::getenv(kOwnRanks) != nullptr; }

std::string command_line_without(std::string_view option) {
  std::string out;
  bool skip_value = false;
  for (const std::string& word : arguments()) {
    if (std::exchange(skip_value, word == option) || skip_value ||
        word.starts_with(str(option, "=")))
      continue;
    out += (out.empty() ? "" : " ") + quoted(word);
  }
  return out;
}

std::string output_of_this_program(const std::vector<std::string>& words, int& exit_code) {
  // A shell starts it, so /proc/self/exe would be the shell.
  std::string command = quoted(std::filesystem::read_symlink("/proc/self/exe").string());
  for (const std::string& word : words) command += " " + quoted(word);
  std::FILE* const pipe = ::popen(command.c_str(), "re");
  if (!pipe) throw EnvironmentError(str("start '", command, "': ", errno_text(errno)));
  std::string output;
  char part[4096];
  for (size_t n; (n = std::fread(part, 1, sizeof(part), pipe)) > 0;) output.append(part, n);
  const int status = ::pclose(pipe);
  exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : kFailed;
  return output;
}

void remember_command_line(int argc, char** argv) { arguments().assign(argv, argv + argc); }

}  // namespace lockstep::cli
