// The folder of a run: DIR/NAME/{config.yaml, metrics.jsonl, logs/, checkpoints/}.
#pragma once

#include <string>

#include "train/config/config.h"

namespace lockstep::train {

struct RunDir {
  std::string path;  // DIR/NAME

  explicit RunDir(const Config& config);

  std::string config_file() const { return path + "/config.yaml"; }
  std::string metrics_file() const { return path + "/metrics.jsonl"; }
  std::string logs() const { return path + "/logs"; }
  std::string checkpoints() const { return path + "/checkpoints"; }

  // Whether a run has left results here (metrics or checkpoints).
  bool has_results() const;
  // Makes the folder and writes config.yaml. Unless `resuming`, throws UsageError where results of another run lie there: nothing
  // is ever written over. For rank 0. Throws EnvironmentError with path and errno.
  void prepare(const Config& config, bool resuming) const;
};

}  // namespace lockstep::train
