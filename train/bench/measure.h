// What the benchmarks measure with: medians, and figures of the slowest rank.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

// 0 for an empty list.
double median(std::vector<double> values);

// The largest of the ranks' values, on every rank. Collective.
double slowest(double value, comm::ProcessGroup& group);

// Microseconds that one `call` takes, made again and again by all ranks at once: the median over
// rounds of the slowest rank's mean. A round holds many calls where `bytes` is small, so that what
// a clock or a late start costs does not count. Collective.
double call_us(comm::ProcessGroup& group, int64_t bytes, const std::function<void()>& call);

}  // namespace lockstep::train
