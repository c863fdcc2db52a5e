// Profile: what the operations of a rank's steps took, from the events of the recorder.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace lockstep::train {

// What this rank's devices can do at most, as measured; 0: not known.
struct Limits {
  double flops_per_s = 0;  // of dense products in the run's precision
  double bytes_per_s = 0;  // to and from memory
};

struct ProfileRow {
  std::string name;  // "gemm nt 1024 x 1152 x 384"
  double calls = 0;  // a step
  double ms = 0;     // a step
  double share = 0;  // of the step's time, 0 to 1
  double gflop_per_s = 0, gb_per_s = 0;
  // The least time that the limits allow, divided by the time it took. Above 1 the arrays came from
  // caches. Nothing if neither work nor limits are known.
  std::optional<double> of_limit = std::nullopt;
};

struct ProfileReport {
  double step_ms = 0;                  // mean
  std::vector<ProfileRow> operations;  // the longest first
  double operations_ms = 0;            // of all of them, a step
  double wait_ms = 0;                  // for other ranks and their calls, a step
  double other_ms = 0;                 // of the step, in neither
  // Calls between ranks, by operation; other threads may run them beside the operations.
  std::vector<ProfileRow> calls;
  Limits limits;
};

// Thread-safe through the recorder, which calls take(). Counts operations of the thread that runs
// the steps, and calls of all threads.
class Profile : public trace::Sink {
 public:
  void take(const trace::ThreadInfo& thread, std::span<const trace::Event> events) override;
  // After trace::stop(). Throws UsageError if no step was recorded.
  ProfileReport report(const Limits& limits) const;

 private:
  struct Sum {
    int64_t count = 0, ns = 0, flops = 0, bytes = 0;
  };
  using Sums = std::map<std::string, Sum>;  // by the name of the row

  static std::vector<ProfileRow> rows_of(const Sums& sums, const Sum& steps, const Limits& limits);

  // By thread, until it is known which one runs the steps.
  std::map<int, Sums> operations_;
  Sums calls_;
  std::map<int, Sum> waits_, steps_;
};

// A table for people.
std::string profile_table(const ProfileReport& report);

}  // namespace lockstep::train
