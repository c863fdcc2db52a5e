// Predicts the time and memory of a step, from a RunPlan and figures of the hardware.
// docs/scale.md has the model, its assumptions, and what it says beside published figures.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/parallel/run_plan.h"
#include "train/plan/hardware.h"

namespace lockstep::train {

struct Estimate {
  std::string mode;      // as strategy_text() has it
  Config config;         // that of the mode
  double compute_s = 0;  // of the busiest rank
  double optimizer_s = 0;
  double communication_s = 0;  // all of it
  double exposed_s = 0;        // the part that is not hidden behind compute
  double step_s() const { return compute_s + optimizer_s + exposed_s; }
  double items_per_s = 0;  // of all ranks
  double mfu = 0;          // 0 to 1
  // Of the rank that needs most.
  double planned_bytes = 0, activation_bytes = 0;
  bool fits = true;
  // The largest train.micro_batch whose memory fits, with all else as it is; 0: none.
  int64_t largest_micro_batch = 0;
};

// One mode: that of the config. `ranks` as in the plan.
Estimate estimate_step(const Config& config, const RunPlan& plan, const Hardware& hardware);

// The config's model with ddp and with each way to shard that suits the number of ranks and nodes,
// the fastest that fits first. The config's own mode is among them.
std::vector<Estimate> compare_modes(const Config& config, int ranks, int nodes,
                                    const Hardware& hardware);

// What forward keeps for backward in one micro-batch, and what backward needs beside it. From
// shapes: within about a tenth for gpt and llama; 0 for mlp.
double activation_bytes(const Config& config);

}  // namespace lockstep::train
