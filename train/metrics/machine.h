// The machine that a rank is on, and the memory that the rank has taken there.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/device/device.h"

namespace lockstep::train {

// The name of this host.
std::string this_host();

// In MB: of a CPU the largest resident memory of this process so far, of another device the most
// that this process's tensors took there at one time.
double peak_memory_mb(Device device);
// The peaks by category on a device that is no CPU, in MB, then that of pinned memory on the host.
// Categories that were never used are left out. Empty for a CPU.
std::vector<std::pair<std::string, double>> memory_by_category(Device device);

}  // namespace lockstep::train
