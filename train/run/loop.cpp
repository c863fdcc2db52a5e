#include "train/run/loop.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "comm/peer_failure.h"
#include "comm/text.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "core/device/cuda_device.h"
#include "launcher/rank/lease.h"
#include "train/metrics/machine.h"
#include "train/metrics/metrics_file.h"
#include "train/metrics/progress.h"
#include "train/run/checkpoints.h"
#include "train/run/data_note.h"
#include "train/run/run_dir.h"
#include "train/run/save_attempts.h"
#include "train/run/stop_budget.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

ProgressScreen progress_screen(ScreenWriter* screen) {
  if (screen)
    return {
        .write =
            [screen](std::string_view text) { screen->write(ScreenWriter::Stream::output, text); },
        .behind = [screen] { return !screen->all_written(); }};
  return {.write = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }};
}

// Shows and writes the progress on rank 0. Does nothing on other ranks.
class Reporter {
 public:
  Reporter(Trainer& trainer, const RunDir& run_dir, int64_t first_step, ScreenWriter* screen)
      : trainer_(trainer),
        peak_(peak_flops(trainer.devices(), dtype_of(trainer.config().train.precision))) {
    if (trainer.group().rank() != 0) return;
    file_.emplace(run_dir.metrics_file(), first_step);
    progress_.emplace(progress_screen(screen), first_step, trainer.config().train.steps,
                      ProgressStyle::detect(stdout, trainer.config().train.log_every));
  }

  void step(const StepReport& report, std::optional<double> validation) {
    if (!file_) return;
    const double seconds = report.step_ms / 1e3;
    const StepMetrics metrics{
        .step = report.step,
        .loss = report.loss,
        .lr = report.lr,
        .grad_norm = report.grad_norm,
        .step_ms = report.step_ms,
        .items_per_s = static_cast<double>(trainer_.items_per_step()) / seconds,
        .items_are_tokens = trainer_.model().items_are_tokens,
        .mfu = peak_ ? std::optional(trainer_.flops_per_step() / seconds / *peak_) : std::nullopt,
        .comm_exposed_ms = report.comm_exposed_ms,
        .peak_mem_mb = peak_memory_mb(trainer_.device()),
        .memory_mb = memory_by_category(trainer_.device()),
        .val_loss = validation};
    write(metrics);
    progress_->update(metrics);
  }

  // Steps after the first one that were done before and must be repeated.
  int64_t lost_steps() const { return file_ ? file_->lost_steps() : 0; }

  void message(const std::string& line) {
    if (progress_) progress_->message(line);
  }
  void finish() {
    if (progress_) progress_->finish();
  }

 private:
  // A full disk must not end the run. A failure is reported once, until a write succeeds again.
  void write(const StepMetrics& metrics) {
    launcher::require_lease("a step's line of metrics.jsonl");
    try {
      file_->append(metrics);
      file_fails_ = false;
    } catch (const EnvironmentError& e) {
      if (!file_fails_)
        message(str("warning: metrics from step ", metrics.step, " on are missing: ", e.what()));
      file_fails_ = true;
    }
  }

  Trainer& trainer_;
  std::optional<double> peak_;  // summed over all devices
  bool file_fails_ = false;
  std::optional<MetricsFile> file_;
  std::optional<Progress> progress_;
};

bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

std::string introduction(Trainer& trainer) {
  const Config& config = trainer.config();
  return str(config.model.kind, ", ", trainer.parameter_count(), " parameters; ",
             count_text(trainer.group().size(), "rank"), " (", strategy_text(config.parallel), ", ",
             trainer.group().backend_name(), ", reduction ", config.parallel.reduction, "); ",
             count_text(config.train.micro_batches(), "micro-batch", "es"), " of ",
             count_text(config.train.micro_batch, "sample"), " a step, ", config.train.precision,
             ", on ", trainer.devices().text());
}

std::string resumed_text(const Resumed& resumed, int64_t steps, int64_t lost_steps) {
  const std::string rest =
      resumed.step >= steps ? str("; all ", steps, " steps are done: raise train.steps to continue")
      : lost_steps > 0      ? str("; ", count_text(lost_steps, "step"), " to be done again")
                            : "";
  if (resumed.anew()) return str("found nothing to resume from: the run starts anew", rest);
  if (!resumed.from_memory)
    return str("resumed after step ", resumed.step, " from ", resumed.folder, rest);
  const std::string disk = resumed.folder_step < 0
                               ? "none on disk"
                               : str("newest checkpoint on disk: step ", resumed.folder_step);
  std::string buddies;
  for (const int rank : resumed.from_others)
    buddies += str(buddies.empty() ? "; from other ranks the parts of rank " : ", ", rank);
  return str("resumed after step ", resumed.step, " from replicas in memory (", disk, buddies, ")",
             rest);
}

// One run, from start to end.
class Run {
 public:
  Run(Trainer& trainer, const RunDir& run_dir, const RunOptions& options, Replicas* replicas,
      const Resumed& resumed)
      : trainer_(trainer),
        config_(trainer.config()),
        options_(options),
        replicas_(replicas),
        attempts_(config_.checkpoint.every_minutes, options.now),
        reporter_(trainer, run_dir, resumed.step, options.screen),
        checkpoints_(trainer, run_dir.checkpoints(), options.now),
        budget_(std::chrono::duration_cast<Duration>(
            std::chrono::duration<double>(config_.checkpoint.stop_budget_s))),
        first_step_(trainer.steps_done()),
        saved_step_(resumed.folder_step),
        result_{.steps_done = trainer.steps_done(),
                .run_dir = run_dir.path,
                .checkpoint = resumed.folder} {
    reporter_.message(introduction(trainer));
    if (options.restarted || !options.resume.empty())
      reporter_.message(resumed_text(resumed, config_.train.steps, reporter_.lost_steps()));
  }

  RunResult run() {
    launcher::report_progress(-1);
    begin();
    bool stopped = false;
    try {
      while (trainer_.steps_done() < config_.train.steps && !stopped) {
        stopped = step();
        options_.after_step();
      }
    } catch (const EnvironmentError& e) {
      if (trainer_.refused() == Refused::no) throw;
      end_refused(e);
    }
    const auto last_step_ended = options_.now();
    checkpoints_.wait();
    look_at_saves();
    check_weights();
    if (saved_step_ != trainer_.steps_done()) result_.checkpoint = checkpoints_.save_last();
    result_.last_save = options_.now() - last_step_ended;
    reporter_.finish();
    result_.finished = !stopped;
    result_.steps_done = trainer_.steps_done();
    result_.weights_sha256 = trainer_.weights_sha256();
    return result_;
  }

 private:
  bool is_rank0() const { return trainer_.group().rank() == 0; }

  // Gives warnings that are possible before the first step.
  void begin() {
    if (trainer_.steps_done() >= config_.train.steps) return;
    if (const std::string lack = checkpoints_.lack_of_file_size(); !lack.empty())
      reporter_.message(
          str("warning: ", lack, ": this run will save nothing unless you raise the limit"));
    look_at_room(saves_by_steps() + 1);
    DataIdentity& data = trainer_.data_identity();
    if (data.read_within(kShortReading)) data.text();  // otherwise the first save waits for it
    leave_note();
  }

  // Returns how many saves checkpoint.every will still cause, without the last one.
  int64_t saves_by_steps() const {
    const int64_t every = config_.checkpoint.every;
    return every > 0 ? (config_.train.steps - 1) / every - trainer_.steps_done() / every : 0;
  }

  // Warns once if there is no room for the next `saves` saves.
  void look_at_room(int64_t saves) {
    if (!is_rank0() || room_lacks_) return;
    checkpoint::Lack lack;
    try {
      lack = checkpoints_.lack_of_room(saves);
    } catch (const EnvironmentError& e) {  // the save itself reports real failures
      return reporter_.message(
          str("warning: cannot tell whether there is room for the next saves: ", e.what()));
    }
    room_lacks_ = !lack.text.empty();
    if (!room_lacks_) return;
    reporter_.message(
        str("warning: ", lack.text, ": without more space, ",
            lack.fit == 0
                ? "this run will save nothing. Free some space by hand"
                : "later saves will fail. Free some space by hand, or lower checkpoint.keep"));
  }

  // Checks again after the first save, when the time between saves tells how many will follow.
  void look_at_room_again(int64_t saved_step) {
    const int64_t steps = saved_step - first_step_,
                  left = config_.train.steps - trainer_.steps_done();
    if (config_.checkpoint.every_minutes <= 0 || steps <= 0 || left <= 0) return;
    look_at_room(std::max(saves_by_steps(), left / steps) + 1);
  }

  // Retries if files of the data were written or replaced but hold the same bytes.
  template <typename Attempt>
  auto with_unchanged_data(const Attempt& attempt) {
    constexpr int kTries = 3;
    for (int tries = 1;; ++tries) {
      try {
        return attempt();
      } catch (const EnvironmentError&) {
        if (trainer_.refused() != Refused::no_data || tries == kTries ||
            !trainer_.data_identity().unchanged())
          throw;
        reporter_.message(str("warning: after step ", trainer_.steps_done(),
                              " files of data.path were found written or replaced, with the same "
                              "bytes: the run continues"));
      }
    }
  }

  // Returns whether the run must stop.
  bool step() {
    const StepFlags wishes{.stop = options_.stop_requested(),
                           .save = is_rank0() && attempts_.due() && !checkpoints_.busy()};
    const auto begin = options_.now();
    const StepReport report = with_unchanged_data([&] { return trainer_.step(wishes); });
    const Duration took = options_.now() - begin;
    const bool last = report.step == config_.train.steps;
    const bool stopped = report.stop_agreed && !last;
    const bool evaluates = config_.train.eval_batches > 0 && !stopped &&
                           (last || due(config_.train.eval_every, report.step));
    const std::optional<double> validation = evaluates ? evaluate(report) : std::nullopt;
    say_what_prevents_recording();
    if (report.skipped)
      reporter_.message(str("train.precision fp16: step ", report.step,
                            " changed no weights, because its gradients overflowed; from the next "
                            "step on the loss is multiplied by half as much"));
    reporter_.step(report, validation);
    look_at_ranks(report);
    if (due(config_.parallel.check_every, report.step)) check_weights();
    launcher::report_progress(report.step);
    result_.last_loss = report.loss;
    if (validation) result_.validation_loss = *validation;
    // After rank 0 has written the step, because a run that resumes here does not write it again.
    if (replicas_ && due(config_.checkpoint.replica_every, report.step)) replicas_->store();
    budget_.stepped(took, options_.now() - begin);
    if (!last && !stopped && (report.save_agreed || due(config_.checkpoint.every, report.step))) {
      attempts_.began();
      check_weights();
      checkpoints_.save();
      leave_note();
    }
    look_at_saves();
    if (!last && !stopped) warn(budget_.warning());
    return stopped;
  }

  void look_at_ranks(const StepReport& report) {
    if (report.ranks.empty()) return;
    if (!stragglers_) stragglers_.emplace(comm::all_gather_text(trainer_.group(), this_host()));
    const std::string text = stragglers_->look(report.step - 1, report.ranks);
    if (!text.empty()) reporter_.message(text);
  }

  // Before a state counts: copies of a wrong one must not be found by ranks that start again.
  void check_weights() {
    try {
      trainer_.check_weights();
    } catch (...) {
      if (replicas_) replicas_->forget();
      reporter_.finish();
      throw;
    }
  }

  // Once, when it is known.
  void say_what_prevents_recording() {
    const std::string& why = trainer_.recorder().prevented();
    if (recording_told_ || why.empty() || trainer_.device() == kCpu ||
        config_.train.capture == CaptureKind::off)
      return;
    recording_told_ = true;
    reporter_.message(str("train.capture: each step is queued anew, because of ", why));
  }

  std::optional<double> evaluate(const StepReport& report) {
    try {
      return with_unchanged_data([&] { return trainer_.evaluate(); });
    } catch (const EnvironmentError&) {
      reporter_.step(report, std::nullopt);  // the step is done: its state is saved if possible
      throw;
    }
  }

  // Saves the state, complete and equal on all ranks. Throws `e` and adds where it is saved.
  [[noreturn]] void end_refused(const EnvironmentError& e) {
    std::string saved;
    try {
      checkpoints_.wait();
      look_at_saves();
      // Keep older checkpoints: the run may have to resume from one of them.
      if (saved_step_ != trainer_.steps_done() && trainer_.steps_done() > 0) {
        check_weights();
        result_.checkpoint = checkpoints_.save_last(/*keep_all=*/true);
        saved_step_ = trainer_.steps_done();
      }
      if (saved_step_ >= 0)
        saved =
            str(". The state after step ", saved_step_, " is saved in '", result_.checkpoint, "'");
    } catch (const std::exception& failed) {
      saved = str(". The state after step ", trainer_.steps_done(),
                  " could not be saved: ", failed.what());
    }
    reporter_.finish();
    std::rethrow_exception(comm::reworded(e, e.what() + saved));
  }

  void look_at_saves() {
    for (const std::string& problem : replicas_ ? replicas_->ended() : std::vector<std::string>{})
      reporter_.message(str("warning: ", problem));
    for (const checkpoint::SaveOutcome& save : checkpoints_.ended()) {
      if (save.folder.empty()) {
        // The run continues: older checkpoints stay, and the next save may succeed.
        warn(attempts_.failed(save.error));
      } else {
        result_.checkpoint = save.folder;
        if (saved_step_ <= first_step_) look_at_room_again(save.step);
        saved_step_ = save.step;
        budget_.saved(save.duration);
        if (const std::string text = attempts_.succeeded(save.step); !text.empty())
          reporter_.message(text);
      }
    }
  }

  void warn(const std::string& warning) {
    if (!warning.empty()) reporter_.message("warning: " + warning);
  }

  // Stores what is known of the data for later ranks of this job.
  void leave_note() {
    if (is_rank0() && options_.notes) leave_data_note(*options_.notes, trainer_);
  }

  static constexpr Duration kShortReading = std::chrono::milliseconds(500);

  Trainer& trainer_;
  const Config& config_;
  const RunOptions& options_;
  Replicas* replicas_;
  SaveAttempts attempts_;
  Reporter reporter_;
  Checkpoints checkpoints_;
  StopBudget budget_;
  std::optional<Stragglers> stragglers_;  // from the first times on
  bool room_lacks_ = false;               // and a warning was given
  bool recording_told_ = false;
  const int64_t first_step_;
  int64_t saved_step_;
  RunResult result_;
};

}  // namespace

RunResult run_training(const Config& config, std::shared_ptr<comm::ProcessGroup> group,
                       const RunOptions& options) {
  Trainer trainer(config, group);
  trainer.data_identity();
  check_data_note(options.notes, trainer);
  const RunDir run_dir(config);
  std::unique_ptr<Replicas> replicas;
  if (config.checkpoint.replica_every > 0) {
    comm::agree(group.get(), [&] {
      check_replicas(config, !options.kept_memory.file.empty());
      return std::string();
    });
    replicas = std::make_unique<Replicas>(trainer, run_dir.path, options.kept_memory);
  }
  const Resumed resumed = resume_newest(trainer, replicas.get(),
                                        {options.resume, options.restarted, run_dir.checkpoints()});
  std::unique_ptr<RunLock> lock;
  comm::agree(group.get(), [&] {
    if (group->rank() != 0) return std::string();
    lock = run_dir.lock(options.restarted || !options.resume.empty());
    run_dir.prepare(trainer.config());
    return std::string();
  });
  if (config.device == DeviceKind::cuda) cuda::keep_plans_in(run_dir.plans());
  return Run(trainer, run_dir, options, replicas.get(), resumed).run();
}

}  // namespace lockstep::train
