// What this machine can do, for MFU and memory figures.
#pragma once

#include "core/base/dtype.h"

namespace lockstep::train {

// Floating-point operations a second that `ranks` ranks of this process's thread count can reach
// together on this host: the probed peak of a core times the cores they can use. Probes once for
// each dtype (some milliseconds).
double peak_flops(DType compute, int ranks);
// The largest resident memory of this process so far, in MB.
double peak_memory_mb();

}  // namespace lockstep::train
