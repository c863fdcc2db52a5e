// Kernels over many tensors in one launch. A block takes one piece of one tensor, which it finds by
// the numbers of pieces before each.
#pragma once

#include "core/device/cuda/kernels/dispatch.h"

namespace lockstep::cuda {

inline constexpr int kManyThreads = 256;

// The row whose pieces hold `piece`.
template <class Row>
__device__ __forceinline__ const Row& row_of_piece(const Row* rows, int64_t count, int64_t piece) {
  int64_t low = 0, high = count;  // the row is in [low, high)
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (rows[middle].first_piece <= piece)
      low = middle;
    else
      high = middle;
  }
  return rows[low];
}

// Calls f.run<…>(i) as for_elements does, for this block's piece: elements [first, end).
template <int N, class F>
__device__ __forceinline__ void run_piece(int64_t first, int64_t end, bool aligned, const F& f) {
  const int64_t in_packs = aligned ? first + (end - first) / N * N : first;
  for (int64_t i = first + int64_t{threadIdx.x} * N; i < in_packs; i += kManyThreads * N)
    f.template run<N>(i);
  for (int64_t i = in_packs + threadIdx.x; i < end; i += kManyThreads) f.template run<1>(i);
}

}  // namespace lockstep::cuda
