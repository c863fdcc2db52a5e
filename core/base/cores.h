// How many cores this process may keep busy. A container often sees all cores of its host and may
// use the time of a few: more threads than that are stopped together for the rest of each period.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace lockstep {

// Of the affinity mask (taskset, cpusets, mpirun's binding). At least 1.
int bound_cores();

// The CPU quota of this process's control group and of those around it, whichever is least, in
// cores: 1.5 is 150 ms of work in every 100 ms. Infinity where there is none. Both versions of
// control groups.
double cpu_quota();

// Both together: bound_cores(), and no more than the quota, rounded up. At least 1. Looked up at
// each call.
int usable_cores();

// The text of a file; empty optional where it cannot be read.
using ReadFile = std::function<std::optional<std::string>(const std::string& path)>;
// cpu_quota() with the system's files as `read` has them. What cannot be understood limits nothing.
double cpu_quota(const ReadFile& read);

}  // namespace lockstep
