// How many cores this process may keep busy. A container often sees all cores of its host but may
// use the time of only a few. The kernel stops surplus threads for the rest of each period.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace lockstep {

// From the affinity mask (taskset, cpusets, mpirun's binding). At least 1.
int bound_cores();

// The smallest CPU quota among this process's control group and its parents, in cores: 1.5 is 150
// ms of work in every 100 ms. Infinity if there is none. Supports both versions of control
// groups.
double cpu_quota();

// Both together: bound_cores(), but at most the quota, rounded up. At least 1. Each call looks
// again.
int usable_cores();

// Returns the text of a file, or nothing if it cannot be read.
using ReadFile = std::function<std::optional<std::string>(const std::string& path)>;
// cpu_quota() with `read` instead of the system's files. Unreadable contents limit nothing.
double cpu_quota(const ReadFile& read);

}  // namespace lockstep
