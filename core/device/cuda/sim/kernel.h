// Runs one kernel.
#pragma once

#include <cstdint>
#include <functional>

#include "core/device/cuda/sim/random.h"

namespace lockstep::cuda::sim {

struct Kernel {
  const char* name;
  int64_t blocks;
  int threads;  // of a block
  bool together;
  std::function<void()> thread;
};

// Runs all threads, on the calling thread: blocks one after the other in a random order. Mistakes
// with barriers end the program with a message. One thread of the process may be in here at a time.
void run_kernel(const Kernel& kernel, Random& random);
// Whether one runs. `position` (kernel_language.h) says where then.
bool in_kernel();

}  // namespace lockstep::cuda::sim
