#include "train/metrics/machine.h"

#include <algorithm>
#include <thread>

#include <sys/resource.h>

#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "core/device/probe.h"

namespace lockstep::train {

double peak_flops(DType compute, int ranks) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return probe_peak_gflops(compute) * 1e9 * std::min(cores, ranks * num_threads());
}

double peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / kMB;  // Linux counts KiB
}

}  // namespace lockstep::train
