// The words of CUDA C++ for kernels that the simulated device runs. Include only through
// core/device/cuda/kernel_language.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// `#pragma unroll` is for nvcc.
#pragma GCC diagnostic ignored "-Wunknown-pragmas"

namespace lockstep::cuda::sim {

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

// Of the simulated thread that runs now. The runtime writes it.
struct Position {
  Index3 thread, block, block_size, grid_size;
};
extern Position position;

// ThreadSanitizer takes simulated threads for threads, and need not see the runtime's own variable.
#if defined(__SANITIZE_THREAD__)
#define LOCKSTEP_SIM_POSITION __attribute__((no_sanitize("thread"), noinline)) inline Index3
#else
#define LOCKSTEP_SIM_POSITION inline Index3
#endif
LOCKSTEP_SIM_POSITION thread_index() { return position.thread; }
LOCKSTEP_SIM_POSITION block_index() { return position.block; }
LOCKSTEP_SIM_POSITION block_size() { return position.block_size; }
LOCKSTEP_SIM_POSITION grid_size() { return position.grid_size; }
#undef LOCKSTEP_SIM_POSITION

// Returns when all threads of the block, or of the warp, have come here. `file` and `line` name the
// place in messages: threads that wait at different places are a mistake of the kernel.
void block_barrier(const char* file, int line);
void warp_barrier(const char* file, int line);
// The `value` that lane `from` of this thread's warp brought to the same call; this thread's own if
// there is no such lane.
uint64_t exchange(uint64_t value, int from, const char* file, int line);

template <class T>
T shuffle(T value, int from, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, from, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(thread_index().x % 32); }

}  // namespace lockstep::cuda::sim

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so one copy for the process is enough.
#define __shared__ static
#define threadIdx (::lockstep::cuda::sim::thread_index())
#define blockIdx (::lockstep::cuda::sim::block_index())
#define blockDim (::lockstep::cuda::sim::block_size())
#define gridDim (::lockstep::cuda::sim::grid_size())
#define __syncthreads() ::lockstep::cuda::sim::block_barrier(__FILE__, __LINE__)
#define __syncwarp() ::lockstep::cuda::sim::warp_barrier(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, offset) \
  LOCKSTEP_SIM_SHUFFLE(value, ::lockstep::cuda::sim::lane() ^ static_cast<int>(offset))
#define __shfl_down_sync(mask, value, offset) \
  LOCKSTEP_SIM_SHUFFLE(value, ::lockstep::cuda::sim::lane() + static_cast<int>(offset))
#define __shfl_up_sync(mask, value, offset) \
  LOCKSTEP_SIM_SHUFFLE(value, ::lockstep::cuda::sim::lane() - static_cast<int>(offset))
#define __shfl_sync(mask, value, from) LOCKSTEP_SIM_SHUFFLE(value, static_cast<int>(from) & 31)
// Blocks run one after the other, so each sees what those before it wrote.
#define __threadfence() static_cast<void>(0)
#define LOCKSTEP_SIM_SHUFFLE(value, from) \
  ::lockstep::cuda::sim::shuffle((value), (from), __FILE__, __LINE__)

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline unsigned atomicAdd(unsigned* count, unsigned by) {
  const unsigned before = *count;
  *count += by;
  return before;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
