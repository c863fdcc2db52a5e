// What a run reports about one step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::train {

struct StepMetrics {
  int64_t step = 0;  // counts from 1
  double loss = 0;   // nats per token; per sample if the model has no tokens
  double lr = 0;
  double grad_norm = 0;
  double step_ms = 0;
  double items_per_s = 0;  // tokens, or samples if the model has no tokens
  bool items_are_tokens = true;
  std::optional<double> mfu;  // 0 to 1; nothing if the device's peak is not known
  double comm_exposed_ms = 0;
  double peak_mem_mb = 0;
  // Of a device: the peak of each category, and of pinned memory on the host. Empty on a CPU.
  std::vector<std::pair<std::string, double>> memory_mb;
  std::optional<double> val_loss;  // if an evaluation followed the step
};

// One JSON object, without a line feed: step, loss, lr, grad_norm, step_ms, tokens_per_s or
// samples_per_s, mfu, comm_exposed_ms, peak_mem_mb, memory_mb, val_loss. Numbers that are not
// finite, and an mfu that is not known, become null.
std::string to_json(const StepMetrics& metrics);

}  // namespace lockstep::train
