// What a kernel's source is written in: CUDA C++ where nvcc compiles it, and the same words for a
// C++ compiler where the simulated device runs it (LOCKSTEP_CUDA=SIM). Kernels use only what stands
// here: threadIdx.x, blockIdx.x, blockDim.x, gridDim.x, __shared__, __syncthreads(), __syncwarp()
// shuffles of a full warp, and what kernels/arrivals.h needs. No other kernel uses atomics, because
// sums must not depend on order.
#pragma once

#ifndef __CUDACC__
#include "core/device/cuda/sim/kernel_language.h"
#endif

namespace lockstep::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

}  // namespace lockstep::cuda
