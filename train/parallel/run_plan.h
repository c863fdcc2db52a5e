// What a run will compute and need, from its config alone. No rank starts, and the model has no
// memory.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/progression.h"
#include "core/device/cuda_device.h"
#include "fsdp/plan/traffic_plan.h"
#include "train/config/config.h"
#include "train/metrics/memory_report.h"

namespace lockstep::train {

struct RunPlan {
  int64_t parameters = 0;
  int64_t micro_batches = 0;             // of a step
  double flops_per_step = 0;             // of all ranks
  std::vector<Progression> leaves = {};  // the micro-batches of a step, by rank
  MemoryBound memory{};                  // of the rank that needs most, as `bench step` reports it
  fsdp::TrafficPlan traffic = {};        // of a rank; with ddp only `replicas`
  // What attention needs while it runs, beside its arrays; it counts as `buffers`. Only for a CUDA
  // device that is here.
  std::optional<cuda::AttentionMemory> attention = {};
  // Work of the busiest rank divided by an even share.
  double imbalance() const;
};

// Throws UsageError if the config does not fit this number of ranks.
RunPlan plan_run(const Config& config, int ranks);

}  // namespace lockstep::train
