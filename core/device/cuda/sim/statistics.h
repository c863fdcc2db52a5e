// What the host asked of the simulated devices, for tests.
#pragma once

#include <cstdint>

namespace lockstep::cuda::sim {

struct Statistics {
  int64_t launches = 0;  // kernels, and functions of the host that stand for some
  int64_t copies = 0;    // copies and fills
  // Calls that blocked until work was done, and copies from ordinary host memory: NVIDIA's runtime
  // may block there.
  int64_t host_waits = 0;
  int64_t deepest = 0;  // the most items that were queued at a time, in all streams together
  int64_t allocations = 0;
};

// Since the start of the process or the last reset. Thread-safe. Throws UsageError for a device
// that does not exist.
Statistics statistics(int device);
void reset_statistics();

}  // namespace lockstep::cuda::sim
