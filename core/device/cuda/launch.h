// Starts kernels: with nvcc's launch syntax, or on the simulated device.
#pragma once

#include <cstdint>

#include "core/device/cuda/kernel_language.h"
#include "core/device/cuda/stream.h"

#ifndef __CUDACC__
#include <tuple>

#include "core/device/cuda/sim/launch.h"
#endif

namespace lockstep::cuda {

// Whole blocks and threads in one dimension. `blocks` may be 0: nothing runs then.
struct Grid {
  int64_t blocks;
  int threads;  // a multiple of kWarp, at most 1024
};

// Enough blocks of 256 threads for `n` threads, but not more than a device runs at once many times
// over: kernels go on with thread + number of threads.
inline Grid grid_for(int64_t n) {
  constexpr int64_t kThreads = 256, kMostBlocks = 4096;
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  return {blocks < kMostBlocks ? blocks : kMostBlocks, kThreads};
}

enum class Threads : uint8_t {
  independent,  // no barrier, no shuffle, no shared memory: the simulation runs them one by one
  together
};

// Runs kernel(args…) once in each thread of the grid, after what was queued before. `name` is a
// string literal for messages.
template <class... P, class... A>
void launch(const char* name, const Queue& queue, Grid grid, Threads threads, void (*kernel)(P...),
            A... args) {
  if (grid.blocks == 0) return;
  void* stream = stream_of(queue);
#ifdef __CUDACC__
  (void)threads;
  kernel<<<static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.threads), 0,
           static_cast<cudaStream_t>(stream)>>>(static_cast<P>(args)...);
  check_launch(name);
#else
  sim::launch(
      name, stream, grid.blocks, grid.threads, threads == Threads::together,
      [kernel, values = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, values); });
#endif
}

}  // namespace lockstep::cuda
