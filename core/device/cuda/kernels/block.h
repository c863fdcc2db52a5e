// Values that the threads of a warp or a block combine, in the order of the fixed tree
// (core/base/sum_tree.h) over the threads. Every thread gets the result, with equal bits. All
// threads of the warp or block must call.
#pragma once

#include "core/device/cuda/launch.h"

namespace lockstep::cuda {

// Two numbers that are combined together: one pass of barriers serves both.
struct Pair {
  float a, b;
};

template <class A>
__device__ __forceinline__ A shuffle_xor(A value, int offset) {
  return __shfl_xor_sync(kFullWarp, value, offset);
}
__device__ __forceinline__ Pair shuffle_xor(Pair value, int offset) {
  return {shuffle_xor(value.a, offset), shuffle_xor(value.b, offset)};
}

struct Add {
  template <class A>
  __device__ A operator()(A x, A y) const {
    return x + y;
  }
  __device__ Pair operator()(Pair x, Pair y) const { return {x.a + y.a, x.b + y.b}; }
};
// Ignores NaN unless all are NaN.
struct Larger {
  __device__ float operator()(float x, float y) const { return fmaxf(x, y); }
};

// Combines the values of each LANES neighbouring lanes. two(left, right) must not care which of its
// arguments is which.
template <int LANES = kWarp, class A, class Two>
__device__ __forceinline__ A warp_combine(A value, Two two) {
#pragma unroll
  for (int offset = 1; offset < LANES; offset *= 2) value = two(value, shuffle_xor(value, offset));
  return value;
}

// THREADS: the size of the block, a power of two.
template <int THREADS, class A, class Two>
__device__ __forceinline__ A block_combine(A value, Two two) {
  constexpr int kWarps = THREADS / kWarp;
  __shared__ A of_warp[kWarps];
  value = warp_combine(value, two);
  __syncthreads();  // an earlier call's values have been read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_combine<kWarps>(of_warp[threadIdx.x % kWarps], two);
}

template <int LANES = kWarp, class A>
__device__ __forceinline__ A warp_sum(A value) {
  return warp_combine<LANES>(value, Add{});
}
template <int LANES = kWarp>
__device__ __forceinline__ float warp_max(float value) {
  return warp_combine<LANES>(value, Larger{});
}
template <int THREADS, class A>
__device__ __forceinline__ A block_sum(A value) {
  return block_combine<THREADS>(value, Add{});
}
template <int THREADS>
__device__ __forceinline__ float block_max(float value) {
  return block_combine<THREADS>(value, Larger{});
}

}  // namespace lockstep::cuda
