// TraceSession: records the timeline of a run on all ranks, from its construction to finish().
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/process_group.h"
#include "train/trace/clocks.h"
#include "train/trace/part_file.h"

namespace lockstep::train {

struct TraceOptions {
  std::string file;        // of all ranks together; empty: nothing is recorded
  int64_t limit_mb = 256;  // of that file; each rank has an equal part
  bool restarted = false;  // keeps what earlier processes of this job recorded
};

class TraceSession {
 public:
  // Collective. A rank that cannot write warns in the log and takes part without a timeline of its
  // own. Throws UsageError if this process records already.
  TraceSession(const TraceOptions& options, comm::ProcessGroup& group);
  // Keeps what was recorded in this rank's own file.
  ~TraceSession();
  TraceSession(const TraceSession&) = delete;
  TraceSession& operator=(const TraceSession&) = delete;

  // Call it after each step: writes down what the threads recorded.
  void stepped();
  // Collective: ends the recording, and rank 0 puts the timelines together. Returns what a user
  // should know, on rank 0: "timeline   FILE (ranks 0 to 3)".
  std::string finish();

 private:
  const TraceOptions options_;
  comm::ProcessGroup& group_;
  ClockShift clock_;
  std::unique_ptr<PartFile> part_;
  bool told_ = false;
};

}  // namespace lockstep::train
