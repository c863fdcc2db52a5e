// Tools of the benchmarks: medians, and figures of the slowest rank.
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

// Microseconds of one `call`, which all ranks repeat at once: the median over rounds of the slowest
// rank's mean. A round has many calls if `bytes` is small, so that the clock and a late start do
// not count. Collective.
double call_us(comm::ProcessGroup& group, int64_t bytes, const std::function<void()>& call);

}  // namespace lockstep::train
