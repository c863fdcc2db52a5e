// Measures what this machine can do: its arithmetic, the denominator of MFU, and its memory.
#pragma once

#include "core/base/dtype.h"

namespace lockstep {

// Peak of one core, in 1e9 floating-point operations per second: the rate of independent fused
// multiply-adds in registers with the chosen instruction set. For bf16 it is the rate of the CPU's
// bf16 dot products if it has them (AVX-512 BF16), otherwise that of f32. A rank with N threads has
// N times this. The first call measures (about 20 ms); later calls return the same value.
// Thread-safe. Throws UsageError for other dtypes.
double probe_peak_gflops(DType dtype);

// Bytes per second that the threads of this process read and write together, in arrays that fit in
// no cache: y = x + y over 64 MiB each, of which two are read and one is written. The best of some
// runs, about 0.2 s; later calls return the same value. Thread-safe.
double probe_memory_bytes_per_s();

}  // namespace lockstep
