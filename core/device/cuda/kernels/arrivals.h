// The last of several blocks to arrive goes on alone with what all of them wrote: a second launch
// that is none. Which block that is depends on the device's mood, so what it computes must not:
// it reads the others' results from memory, in their order.
#pragma once

#include "core/device/cuda/launch.h"

namespace lockstep::cuda {

// All threads of `blocks` blocks call, each after it wrote what the last one reads. True for the
// threads of the block that comes last. That block reads by __ldcg(), since its own cache may not
// have what others wrote. `count` is 0 before the first block comes and after the last one has.
__device__ __forceinline__ bool last_to_arrive(unsigned* count, unsigned blocks) {
  __shared__ bool last;
  __threadfence();  // others see what this thread wrote before they see that its block is here
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(count, 1u) + 1 == blocks;
    if (last) *count = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace lockstep::cuda
