// metrics.jsonl: one JSON object a step, in order. Each is flushed when written. For one writer.
#pragma once

#include <cstdint>
#include <string>

#include "train/metrics/step_metrics.h"

namespace lockstep::train {

class MetricsFile {
 public:
  // Opens or creates the file. `resumed_step`: the step of the checkpoint from which the run
  // continues (0: a new run). Removes lines of later steps, because those steps will run again, and
  // an incomplete last line. Throws EnvironmentError with path and errno.
  MetricsFile(std::string path, int64_t resumed_step);

  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  // Number of removed lines of later steps.
  int64_t lost_steps() const { return lost_steps_; }

  // Throws EnvironmentError with path and errno, for example on a full disk. This step is then
  // missing, but every line stays whole, and the next call tries again.
  void append(const StepMetrics& metrics);

 private:
  std::string path_;
  int fd_;
  int64_t bytes_ = 0;  // of whole lines
  int64_t lost_steps_ = 0;
};

}  // namespace lockstep::train
