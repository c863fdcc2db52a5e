// What `lockstep bench step` measures. Collective. Show the figures of rank 0. Speeds are medians
// over repetitions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/process_group.h"
#include "train/config/config.h"
#include "train/metrics/memory_report.h"

namespace lockstep::train {

struct StepBenchmark {
  int ranks = 0, threads = 0;
  // strategy as strategy_text() has it, devices as Devices::text()
  std::string strategy, backend, devices, precision;
  int64_t parameters = 0;
  int64_t steps = 0;   // measured; the warm-up is not counted
  double step_ms = 0;  // median over steps of the slowest rank's time
  double step_ms_min = 0, step_ms_max = 0;
  bool items_are_tokens = true;
  double items_per_s = 0;                    // of all ranks
  std::optional<double> mfu = std::nullopt;  // 0 to 1; nothing if the device's peak is not known
  double peak_mem_mb = 0;                    // as peak_memory_mb(), of the rank that needs most
  double comm_exposed_ms = 0;                // median over steps
  // With checkpoint.replica_every: how long steps with a copy in memory waited for it (median).
  // step_ms includes this time.
  double replica_ms = 0;
  double loss = 0;  // of the last step
  // Of the measured steps: the planned bound and the peak, by category.
  MemoryReport memory{};
};

// What else happens while steps are measured. Called on every rank.
struct StepWatch {
  std::function<void()> begin = [] {};    // after the warm-up
  std::function<void()> stepped = [] {};  // after each measured step, outside of its time
};
StepBenchmark bench_step(const Config& config, std::shared_ptr<comm::ProcessGroup> group,
                         int64_t warmup, int64_t steps, const StepWatch& watch = {});

}  // namespace lockstep::train
