// A whole run: steps, metrics, evaluation, checkpoints, stopping.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/process_group.h"
#include "core/base/clock.h"
#include "core/screen/screen_writer.h"
#include "train/config/config.h"
#include "train/run/job_notes.h"
#include "train/run/replicas.h"

namespace lockstep::train {

struct RunOptions {
  // Where to start: "" from nothing, "auto" from the newest good checkpoint of this run (or
  // nothing), else a checkpoint folder.
  std::string resume;
  // The ranks were restarted after a failure. State of this run, in memory or on disk, then comes
  // before `resume`.
  bool restarted = false;
  // For checkpoint.replica_every.
  KeptMemory kept_memory = {};
  // Whether this process was asked to stop. Called once a step.
  std::function<bool()> stop_requested = [] { return false; };
  // Notes for ranks that start after these. Null: there will be none. Must outlive the run.
  const JobNotes* notes = nullptr;
  // Where rank 0 shows its output. Null: standard output, whose reader the run then waits for. Must
  // outlive the run.
  ScreenWriter* screen = nullptr;
  // Called at the end of each step, whatever came of its save.
  std::function<void()> after_step = [] {};
  // The clock of checkpoint.every_minutes and checkpoint.stop_budget_s. Only rank 0's counts.
  std::function<Clock::time_point()> now = [] { return Clock::now(); };
};

struct RunResult {
  bool finished = false;  // false: stopped early, after saving
  int64_t steps_done = 0;
  double last_loss = 0;
  double validation_loss = 0;  // 0 if nothing was evaluated
  std::string run_dir = {};
  std::string checkpoint = {};  // the last one saved; empty for none
  Duration last_save{};         // from the end of the last step until the checkpoint was on disk
  std::string weights_sha256 = {};
};

// Collective. Rank 0 writes the run's folder and the screen. If a step fails on all ranks alike
// (loss or gradients are not finite, a rank's data changed or cannot be read), saves the state
// before it and throws an error that says where.
RunResult run_training(const Config& config, std::shared_ptr<comm::ProcessGroup> group,
                       const RunOptions& options);

}  // namespace lockstep::train
