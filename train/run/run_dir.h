// The folder of a run: DIR/NAME/{config.yaml, metrics.jsonl, logs/, plans/, checkpoints/}.
#pragma once

#include <memory>
#include <string>

#include "train/config/config.h"

namespace lockstep::train {

// Keeps every other process from writing to a run's folder while it lives. The system releases the
// lock when the process ends for any reason.
class RunLock {
 public:
  // Waits a moment for a process that is just ending. Throws UsageError if another run uses the
  // folder. If the file system has no locks, it holds none.
  explicit RunLock(const std::string& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // The system's reason if the file system has no locks. Empty: the lock is held.
  const std::string& why_none() const { return why_none_; }

 private:
  int fd_;
  std::string why_none_;
};

struct RunDir {
  static constexpr const char* kConfigName = "config.yaml";
  std::string path;  // DIR/NAME

  explicit RunDir(const Config& config);

  std::string config_file() const { return path + "/" + kConfigName; }
  std::string metrics_file() const { return path + "/metrics.jsonl"; }
  std::string logs() const { return path + "/logs"; }
  std::string plans() const { return path + "/plans"; }
  std::string checkpoints() const { return path + "/checkpoints"; }

  // Whether a run has left results here (metrics or checkpoints).
  bool has_results() const;
  // Throws UsageError if another process trains into the folder or, unless `resuming`, if the
  // folder has results of an earlier run: nothing is ever overwritten. Creates nothing.
  void check_free(bool resuming) const;
  // Checks the same, then makes the folder and keeps other runs out of it while the result lives.
  // Warns if it cannot, because there are no locks. For one process of a run.
  [[nodiscard]] std::unique_ptr<RunLock> lock(bool resuming) const;
  // Makes the folders below and writes config.yaml. For the holder of the lock. Throws
  // EnvironmentError with path and errno.
  void prepare(const Config& config) const;

 private:
  void check_no_results(bool resuming) const;
};

}  // namespace lockstep::train
