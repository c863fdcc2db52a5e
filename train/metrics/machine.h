// The limits of this machine, for MFU and memory figures.
#pragma once

#include "core/base/dtype.h"

namespace lockstep::train {

// Floating-point operations per second that `ranks` ranks with this process's thread count can
// reach together on this host: the probed peak of a core times the cores that they can use. Probes
// once for each dtype (some milliseconds).
double peak_flops(DType compute, int ranks);
// The largest resident memory of this process so far, in MB.
double peak_memory_mb();

}  // namespace lockstep::train
