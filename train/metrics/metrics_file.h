// metrics.jsonl: one JSON object a step, in order, each flushed as it is written. For one writer.
#pragma once

#include <cstdint>
#include <string>

#include "train/metrics/step_metrics.h"

namespace lockstep::train {

class MetricsFile {
 public:
  // Opens or creates the file. `resumed_step`: the step of the checkpoint that the run continues
  // from (0: a new run); lines of later steps, and a torn last line, are cut off, since those steps
  // will come again. Throws EnvironmentError with path and errno.
  MetricsFile(std::string path, int64_t resumed_step);

  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  // How many lines of later steps were cut off.
  int64_t lost_steps() const { return lost_steps_; }

  // Throws EnvironmentError with path and errno, such as on a full disk; this step is missing then,
  // but every line stays whole, and the next call tries again.
  void append(const StepMetrics& metrics);

 private:
  std::string path_;
  int fd_;
  int64_t bytes_ = 0;  // of whole lines
  int64_t lost_steps_ = 0;
};

}  // namespace lockstep::train
