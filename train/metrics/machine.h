// The memory that a rank has taken, for metrics.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/device/device.h"

namespace lockstep::train {

// In MB: of a CPU the largest resident memory of this process so far, of another device the most
// that this process's tensors took there at one time.
double peak_memory_mb(Device device);
// The peaks by category on a device that is no CPU, in MB, then that of pinned memory on the host.
// Categories that were never used are left out. Empty for a CPU.
std::vector<std::pair<std::string, double>> memory_by_category(Device device);

}  // namespace lockstep::train
