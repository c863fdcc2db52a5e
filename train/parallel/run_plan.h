// What a run will do and take, from its config alone: no rank is started, and the model has no
// memory.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/progression.h"
#include "fsdp/plan/traffic_plan.h"
#include "train/config/config.h"
#include "train/metrics/memory_report.h"

namespace lockstep::train {

struct RunPlan {
  int64_t parameters = 0;
  int64_t micro_batches = 0;             // of a step
  double flops_per_step = 0;             // of all ranks
  std::vector<Progression> leaves = {};  // the micro-batches of a step, by rank
  MemoryBound memory{};                  // of the rank that needs most, as `bench step` states it
  fsdp::TrafficPlan traffic = {};        // of a rank; with ddp `replicas` alone
  // What the busiest rank computes over an even share.
  double imbalance() const;
};

// Throws UsageError where the config does not fit so many ranks.
RunPlan plan_run(const Config& config, int ranks);

}  // namespace lockstep::train
