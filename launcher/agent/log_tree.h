// LogTree: the files of a run's ranks, as torchrun lays them out:
//
//   DIR/RUN_ID_XXXXXX/attempt_N/LOCAL_RANK/stdout.log
//                                          stderr.log
//                                          error.json        if the rank reported one
//                               filtered_stdout.log          with filters, of all ranks here
//                               filtered_stderr.log
//
// N counts the restarts.
#pragma once

#include <memory>
#include <string>

#include "launcher/base/launch_spec.h"
#include "launcher/process/output.h"

namespace lockstep::launcher {

class LogTree {
 public:
  // The tree that `spec` asks for, or null. Makes the folder of the run, whose name is this run's
  // alone. Throws EnvironmentError if it cannot.
  static std::unique_ptr<LogTree> make(const LaunchSpec& spec, const std::string& run_id);

  // Says where the output of a rank goes, and makes the folder. Throws EnvironmentError.
  void put_into(RankOutput::Options& options, int attempt, int local_rank) const;
  // The folder of the run.
  const std::string& path() const { return path_; }

 private:
  LogTree(const LaunchSpec& spec, std::string path) : spec_(spec), path_(std::move(path)) {}

  const LaunchSpec& spec_;
  std::string path_;
};

}  // namespace lockstep::launcher
