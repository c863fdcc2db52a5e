// Measures what this machine's arithmetic can do: the denominator of MFU.
#pragma once

#include "core/base/dtype.h"

namespace lockstep {

// Peak of one core, in 1e9 floating-point operations per second: the rate of independent fused
// multiply-adds in registers with the chosen instruction set. For bf16 it is the rate of the CPU's
// bf16 dot products if it has them (AVX-512 BF16), otherwise that of f32. A rank with N threads has
// N times this. The first call measures (about 20 ms); later calls return the same value.
// Thread-safe. Throws UsageError for other dtypes.
double probe_peak_gflops(DType dtype);

}  // namespace lockstep
