#include "train/loop.h"

#include <cstdio>
#include <optional>

#include "comm/text.h"
#include "core/base/log.h"
#include "core/base/size_text.h"
#include "train/checkpoints.h"
#include "train/machine.h"
#include "train/metrics/metrics_file.h"
#include "train/metrics/progress.h"
#include "train/run_dir.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

DType compute_dtype(const Config& config) { return config.train.precision == "bf16" ? DType::bf16 : DType::f32; }

// What rank 0 shows and writes; does nothing on the others.
class Reporter {
 public:
  Reporter(Trainer& trainer, const RunDir& run_dir, int64_t first_step)
      : trainer_(trainer), peak_(peak_flops(compute_dtype(trainer.config()), trainer.group().size())) {
    if (trainer.group().rank() != 0) return;
    file_.emplace(run_dir.metrics_file(), first_step);
    progress_.emplace(stdout, first_step, trainer.config().train.steps, ProgressStyle::detect(stdout, trainer.config().train.log_every));
  }

  void step(const StepReport& report, std::optional<double> validation) {
    if (!file_) return;
    const double seconds = report.step_ms / 1e3;
    const StepMetrics metrics{.step = report.step,
                              .loss = report.loss,
                              .lr = report.lr,
                              .grad_norm = report.grad_norm,
                              .step_ms = report.step_ms,
                              .items_per_s = static_cast<double>(trainer_.items_per_step()) / seconds,
                              .items_are_tokens = trainer_.model().items_are_tokens,
                              .mfu = trainer_.flops_per_step() / seconds / peak_,
                              .comm_exposed_ms = report.comm_exposed_ms,
                              .peak_mem_mb = peak_memory_mb(),
                              .val_loss = validation};
    write(metrics);
    progress_->update(metrics);
  }

  // How many steps after the first one were done before, and will be done again.
  int64_t lost_steps() const { return file_ ? file_->lost_steps() : 0; }

  void message(const std::string& line) {
    if (progress_) progress_->message(line);
  }
  void finish() {
    if (progress_) progress_->finish();
  }

 private:
  // A full disk must not end the run. What could not be written is said once, until it goes well again.
  void write(const StepMetrics& metrics) {
    try {
      file_->append(metrics);
      file_fails_ = false;
    } catch (const EnvironmentError& e) {
      if (!file_fails_) message(str("warning: metrics from step ", metrics.step, " on are missing: ", e.what()));
      file_fails_ = true;
    }
  }

  Trainer& trainer_;
  double peak_;
  bool file_fails_ = false;
  std::optional<MetricsFile> file_;
  std::optional<Progress> progress_;
};

bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

std::string introduction(Trainer& trainer) {
  const Config& config = trainer.config();
  return str(config.model.kind, ", ", trainer.parameter_count(), " parameters; ", count_text(trainer.group().size(), "rank"), " (",
             strategy_text(config.parallel), ", ", trainer.group().backend_name(), ", reduction ", config.parallel.reduction, "); ",
             count_text(config.train.micro_batches(), "micro-batch", "es"), " of ", count_text(config.train.micro_batch, "sample"),
             " a step, ", config.train.precision);
}

std::string resumed_text(const Resumed& resumed, int64_t steps, int64_t lost_steps) {
  const std::string rest = resumed.step >= steps ? str("; all ", steps, " steps are done: raise train.steps to go on")
                           : lost_steps > 0      ? str("; ", count_text(lost_steps, "step"), " to be done again")
                                                 : "";
  if (resumed.anew()) return str("found nothing to resume from: the run begins anew", rest);
  if (!resumed.from_memory) return str("resumed after step ", resumed.step, " from ", resumed.folder, rest);
  const std::string disk = resumed.folder_step < 0 ? "none on disk" : str("newest checkpoint on disk: step ", resumed.folder_step);
  std::string buddies;
  for (const int rank : resumed.from_others) buddies += str(buddies.empty() ? "; from other ranks the parts of rank " : ", ", rank);
  return str("resumed after step ", resumed.step, " from replicas in memory (", disk, buddies, ")", rest);
}

}  // namespace

RunResult run_training(const Config& config, std::shared_ptr<comm::ProcessGroup> group, const RunOptions& options) {
  Trainer trainer(config, group);
  const RunDir run_dir(config);
  std::unique_ptr<Replicas> replicas;
  if (config.checkpoint.replica_every > 0) {
    comm::agree(group.get(), [&] {
      check_replicas(config, !options.kept_memory.file.empty());
      return std::string();
    });
    replicas = std::make_unique<Replicas>(trainer, run_dir.path, options.kept_memory);
  }
  const Resumed resumed = resume_newest(trainer, replicas.get(), {options.resume, options.restarted, run_dir.checkpoints()});
  std::unique_ptr<RunLock> lock;
  comm::agree(group.get(), [&] {
    if (group->rank() != 0) return std::string();
    lock = run_dir.lock(options.restarted || !options.resume.empty());
    run_dir.prepare(config);
    return std::string();
  });

  Reporter reporter(trainer, run_dir, resumed.step);
  reporter.message(introduction(trainer));
  if (options.restarted || !options.resume.empty()) reporter.message(resumed_text(resumed, config.train.steps, reporter.lost_steps()));

  RunResult result{.steps_done = trainer.steps_done(), .run_dir = run_dir.path, .checkpoint = resumed.folder};
  int64_t saved_step = resumed.folder_step;
  Checkpoints checkpoints(trainer, run_dir.checkpoints());
  const auto look_at_saves = [&] {
    for (const std::string& problem : replicas ? replicas->ended() : std::vector<std::string>{})
      reporter.message(str("warning: ", problem));
    for (const checkpoint::SaveOutcome& save : checkpoints.ended()) {
      if (save.folder.empty()) {
        // The run goes on: the older checkpoints stand, and the next save may find what this one lacked.
        reporter.message(str("warning: ", save.error));
      } else {
        result.checkpoint = save.folder;
        saved_step = save.step;
      }
    }
  };

  bool stopped = false;
  while (trainer.steps_done() < config.train.steps && !stopped) {
    const StepReport report = trainer.step(options.stop_requested());
    const bool last = report.step == config.train.steps;
    stopped = report.stop_agreed && !last;
    std::optional<double> validation;
    if (config.train.eval_batches > 0 && !stopped && (last || due(config.train.eval_every, report.step))) validation = trainer.evaluate();
    reporter.step(report, validation);
    result.last_loss = report.loss;
    if (validation) result.validation_loss = *validation;
    // Behind what rank 0 wrote of the step: a run that goes on from here will not write it again.
    if (replicas && due(config.checkpoint.replica_every, report.step)) replicas->store();
    if (!last && !stopped && due(config.checkpoint.every, report.step)) checkpoints.save();
    look_at_saves();
  }
  checkpoints.wait();
  look_at_saves();
  if (saved_step != trainer.steps_done()) result.checkpoint = checkpoints.save_last();
  reporter.finish();
  result.finished = !stopped;
  result.steps_done = trainer.steps_done();
  result.weights_sha256 = trainer.weights_sha256();
  return result;
}

}  // namespace lockstep::train
