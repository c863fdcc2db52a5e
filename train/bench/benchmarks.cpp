#include "train/bench/benchmarks.h"

#include <algorithm>
#include <memory>

#include "core/base/parallel.h"
#include "train/bench/measure.h"
#include "train/metrics/machine.h"
#include "train/run/replicas.h"
#include "train/run/run_dir.h"
#include "train/run/trainer.h"

namespace lockstep::train {
StepBenchmark bench_step(const Config& given, std::shared_ptr<comm::ProcessGroup> group,
                         int64_t warmup, int64_t steps, const StepWatch& watch) {
  Config config = given;
  config.train.steps = warmup + steps;
  config.optim.schedule.warmup = std::min(config.optim.schedule.warmup, config.train.steps);
  Trainer trainer(config, group);
  StepBenchmark result{.ranks = group->size(),
                       .threads = num_threads(),
                       .strategy = strategy_text(config.parallel),
                       .backend = group->backend_name(),
                       .devices = trainer.devices().text(),
                       .precision = std::string(word_of(config.train.precision)),
                       .parameters = trainer.parameter_count(),
                       .steps = steps,
                       .items_are_tokens = trainer.model().items_are_tokens};
  // Replicas in ordinary memory are enough, because nothing resumes from them.
  const int64_t every = config.checkpoint.replica_every;
  const auto replicas =
      every > 0 ? std::make_unique<Replicas>(trainer, RunDir(config).path, KeptMemory{}) : nullptr;
  std::vector<double> times, exposed, replicated;
  for (int64_t i = 0; i < warmup + steps; ++i) {
    // The first steps build buckets and learn the order of units, so the peak leaves them out. It
    // counts the step that is recorded, since launches of recorded work allocate nothing.
    if (i == std::min<int64_t>(warmup, StepRecorder::kEagerSteps)) {
      allocator(trainer.device()).reset_peak();
      pinned_allocator(trainer.device()).reset_peak();
    }
    if (i == warmup) watch.begin();
    const StepReport report = trainer.step();
    result.loss = report.loss;
    const bool stores = replicas && report.step % every == 0;
    const double replica_ms = stores ? milliseconds(replicas->store()) : 0;
    const double step_ms = slowest(report.step_ms + replica_ms, *group);
    if (i < warmup) continue;
    watch.stepped();
    if (stores) replicated.push_back(replica_ms);
    times.push_back(step_ms);
    exposed.push_back(report.comm_exposed_ms);
  }
  const auto [fastest, longest] = std::minmax_element(times.begin(), times.end());
  result.step_ms = median(times);
  result.step_ms_min = *fastest;
  result.step_ms_max = *longest;
  result.comm_exposed_ms = median(exposed);
  result.replica_ms = median(replicated);
  result.peak_mem_mb = slowest(peak_memory_mb(trainer.device()), *group);
  result.memory = report_memory(trainer.memory_bound(), trainer.device(), *group);
  const double step_s = result.step_ms / 1e3;
  result.items_per_s = static_cast<double>(trainer.items_per_step()) / step_s;
  if (const auto peak = peak_flops(trainer.devices(), dtype_of(config.train.precision)))
    result.mfu = trainer.flops_per_step() / step_s / *peak;
  return result;
}

}  // namespace lockstep::train
