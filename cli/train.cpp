// lockstep train CONFIG [-n RANKS] [--set key=value]… [--resume auto|DIR]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include <CLI/App.hpp>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/process/screen.h"
#include "cli/process/stop_signal.h"
#include "cli/rank_options.h"
#include "core/base/log.h"
#include "train/data/dataset.h"
#include "train/parallel/device.h"
#include "train/parallel/groups.h"
#include "train/run/checkpoints.h"
#include "train/run/job_notes.h"
#include "train/run/loop.h"
#include "train/run/replicas.h"
#include "train/run/run_dir.h"
#include "train/run/stop_budget.h"

namespace lockstep::cli {
namespace {

struct Options : RankOptions {
  std::string resume;
  int max_restarts = 0;
  TraceOptions trace = {};
  launcher::AgentEnv agent = {};  // read when the command runs, so that its errors are reported

  // The job started its ranks again and was asked to resume.
  bool restarted() const { return agent.epoch > 1 && (may_restart() || !resume.empty()); }
  // Whether this command starts its ranks again itself.
  bool may_restart() const { return max_restarts > 0 || (min_ranks > 0 && min_ranks < ranks); }
};

// Distinguishes the runs of one job. Equal on all ranks of a run.
std::string name_of_run() {
  std::error_code error;
  return str(std::filesystem::current_path(error).string(), "\n", command_line_without(""));
}

// This run's notes for ranks that start after this one. Null if none will.
std::unique_ptr<train::JobNotes> job_notes(const launcher::AgentEnv& agent) {
  if (agent.kept_memory.empty()) return nullptr;
  return std::make_unique<train::JobNotes>(launcher::connect_job_store(), name_of_run(),
                                           agent.epoch);
}

// Finds faults before any rank starts, within milliseconds, and reports them once.
void check_before_start(const train::Config& config, const Options& options, int ranks) {
  train::check_world_size(config, ranks);
  train::resolved(config.device);
  train::check_replicas(config, options.may_restart() || !options.agent.kept_memory.empty());
  train::open_dataset(config);
  options.trace.check_before_start();
  if (!options.resume.empty()) train::check_resume(options.resume);
  train::RunDir(config).check_free(options.restarted() || !options.resume.empty());
}

// The config in a run's folder may name that folder relative to where the run began. From
// elsewhere, or after a move, the run would not be found, and a second run with its name would
// begin.
void check_runs_own_config(const train::Config& config, const Options& options) {
  namespace fs = std::filesystem;
  const auto set_by_hand = [](const std::string& set) {
    return set.starts_with("run.name=") || set.starts_with("run.dir=");
  };
  if (options.resume != "auto" ||
      std::any_of(options.overrides.begin(), options.overrides.end(), set_by_hand))
    return;
  std::error_code error;
  const fs::path file(options.config_file),
      folder = fs::canonical(file.has_parent_path() ? file.parent_path() : ".", error);
  const std::string found = train::RunDir(config).path;
  if (error || file.filename() != train::RunDir::kConfigName ||
      checkpoint::list((folder / "checkpoints").string()).empty())
    return;
  check(fs::equivalent(folder, found, error), "'", options.config_file,
        "' is the config of the run in '", folder.string(),
        "', but to this process its run.dir and run.name mean '", found,
        "': start where the run began, or add --set run.dir=", folder.parent_path().string(),
        " --set run.name=", folder.filename().string());
}

// Another launcher started us. Reject options that only that launcher can honour. Ignoring them
// would show only at the first failure.
void check_launched(const train::Config& config, const Options& options,
                    const std::string& launcher) {
  // Under an agent that is not ours, a restart may follow a refusal. It would then continue the
  // very run that must not be touched.
  check(options.max_restarts == 0 || launched_by_us(),
        "--max-restarts is for ranks that this command starts itself (-n), but these were started "
        "by another launcher (",
        launcher,
        "): leave it out; `lockstep run --max-restarts N -- lockstep train … --resume auto` starts "
        "them again");
  check(config.checkpoint.replica_every == 0 || options.agent.kept_memory.empty() ||
            options.may_restart() || !options.resume.empty(),
        "checkpoint.replica_every under `lockstep run` needs --resume auto: without it, restarted "
        "ranks do not resume, but begin again");
}

// Resumes from what this run saved, whatever it was itself resumed from.
std::string resume_command() { return command_line_without("--resume") + " --resume auto"; }

// The newest checkpoint of the run, judged by its manifest. No folder: there is none.
checkpoint::Listed newest_saved(const train::Config& config) {
  const auto saved = checkpoint::list(train::RunDir(config).checkpoints());
  const auto good = std::find_if(saved.rbegin(), saved.rend(), [](const checkpoint::Listed& each) {
    return each.problem.empty();
  });
  return good == saved.rend()
             ? checkpoint::Listed{.folder = {}, .step = -1, .problem = {}, .unknown = {}}
             : *good;
}

// The text with which rank 0 ends.
std::string last_lines(const train::Config& config, const launcher::RankEnv& rank,
                       const train::RunResult& result) {
  std::string text = str("run        ", result.run_dir, "\n");
  if (!result.checkpoint.empty()) text += str("checkpoint ", result.checkpoint, "\n");
  if (!result.finished)
    text += str("stopped after step ", result.steps_done, " of ", config.train.steps, ", saved in ",
                train::stop_time_text(result.last_save), "; to continue",
                rank.size > 1 && !launched_by_us() ? ", as the command of each rank" : "", ":\n  ",
                resume_command(), "\n");
  return text + str("weights sha256:", result.weights_sha256, "\n");
}

int run_rank(train::Config config, const Options& options, const launcher::RankEnv& rank,
             const train::JobNotes* notes) {
  // Without an agent, a rank prefixes its lines itself.
  const bool agent = std::getenv("LOCKSTEP_ERROR_FILE") != nullptr;
  if (rank.size > 1 && !agent) log::set_identity(str("rank ", rank.rank));
  const Device device = train::take_device(config, rank);
  const auto group = train::make_group(config.parallel, rank, device);
  const auto trace = options.trace.begin(*group);
  const train::RunResult result = train::run_training(
      config, group,
      {.resume = options.resume,
       .restarted = options.restarted(),
       .kept_memory = {.file = options.agent.kept_memory, .node = options.agent.node},
       .stop_requested = stop_requested,
       .notes = notes,
       .screen = screen(),
       .after_step = [&] {
         if (trace) trace->stepped();
       }});
  const std::string timeline = trace ? trace->finish() : "";
  const int exit_code = result.finished ? kDone : kStoppedAfterSaving;
  if (!result.finished) launcher::report_saved();
  if (rank.rank == 0) print(timeline + last_lines(config, rank, result));
  return exit_code;
}

int train(Options& options) {
  options.agent = launcher::agent_env();
  options.trace.restarted = options.agent.epoch > 1;
  const Placement placement = place(options);
  const bool restart_alone = options.may_restart() && !placement.given;
  // The agent has its own screen.
  const bool launches = placement.launch_here || restart_alone;
  if (!launches) open_screen();
  const std::unique_ptr<train::JobNotes> notes = job_notes(options.agent);
  const auto load = [&] { return options.load(); };
  const train::Config config =
      notes ? train::config_of_job(*notes, placement.rank.rank, load) : load();
  check_runs_own_config(config, options);
  if (launches) {
    const int ranks = std::max(1, options.ranks);
    check_before_start(config, options, ranks);
    // What this run has saved is complete. What it found may be broken, and may be the cause of the
    // failure.
    const int64_t found = newest_saved(config).step;
    const auto stop_budget = std::chrono::ceil<std::chrono::milliseconds>(
        std::chrono::duration<double>(config.checkpoint.stop_budget_s));
    const int code =
        launch_ranks({.ranks = ranks,
                      .min_ranks = options.min_ranks,
                      .log_dir = train::RunDir(config).logs(),
                      .stop_signals = true,
                      .max_restarts = options.max_restarts,
                      .stop_budget = stop_budget,
                      .job_values = {train::config_note_for_ranks(name_of_run(), config)}});
    if (code != kFailed) return code;
    open_screen();
    print(options.trace.gather(ranks), ScreenWriter::Stream::error);
    if (const checkpoint::Listed newest = newest_saved(config); newest.step > found)
      print(str("newest checkpoint: ", newest.folder, "; to continue:\n  ", resume_command(), "\n"),
            ScreenWriter::Stream::error);
    return code;
  }
  if (placement.given) check_launched(config, options, placement.rank.source);
  if (placement.rank.size == 1) check_before_start(config, options, 1);
  return run_rank(config, options, placement.rank, notes.get());
}

}  // namespace

void add_train_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "train", "train the model of a config; under mpirun or srun, on the ranks that it started");
  auto options = std::make_shared<Options>();
  options->add_to(*command, true, /*ranges=*/true);
  command
      ->add_option("--resume", options->resume,
                   "continue: 'auto' from the newest good checkpoint of this run, or from a folder")
      ->option_text("auto|DIR");
  command
      ->add_option("--max-restarts", options->max_restarts,
                   "restart all ranks at most this many times after a failure, from the newest "
                   "state of this run (0)")
      ->option_text("N")
      ->check(whole_number(0, 1000000));
  options->trace.add_to(*command);
  command->callback([options, &exit_code] { exit_code = train(*options); });
}

}  // namespace lockstep::cli
