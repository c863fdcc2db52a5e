// What this machine's arithmetic can do, measured: the denominator of MFU.
#pragma once

#include "core/base/dtype.h"

namespace lockstep {

// Peak of one core, in 1e9 floating-point operations per second: the rate of independent fused
// multiply-adds in registers with the chosen instruction set. bf16 is the rate of the CPU's bf16
// dot products where it has them (AVX-512 BF16), otherwise that of f32. Measured at the first call
// (about 20 ms), then remembered; thread-safe. A rank with N threads has N times this. Throws
// UsageError for other dtypes.
double probe_peak_gflops(DType dtype);

}  // namespace lockstep
