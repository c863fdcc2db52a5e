#include "core/device/cuda/kernels/columns.h"
#include "core/device/cuda/kernels/rows.h"

namespace lockstep::cuda {
namespace {

constexpr int kWarps = kRowThreads / kWarp;

// A block sums 32 columns. Warp w adds rows w, w + kWarps, …; then the warps' sums are added in
// order.
__global__ void __launch_bounds__(kRowThreads)
    add_partials_kernel(int64_t count, int64_t n, int64_t chunks, PartialSums first,
                        PartialSums second) {
  __shared__ float of_warp[kWarps][kWarp];
  const PartialSums sums = blockIdx.x < chunks ? first : second;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t column = blockIdx.x % chunks * kWarp + lane;
  float sum = 0.0f;
  if (column < n) {
#pragma unroll 8
    for (int64_t row = warp; row < count; row += kWarps) sum += sums.partial[row * n + column];
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= n) return;
  for (int w = 1; w < kWarps; ++w) sum += of_warp[w][lane];
  sums.out[column] = sums.accumulate ? sums.out[column] + sum : sum;
}

}  // namespace

void add_partials(const char* kernel, const Queue& queue, int64_t count, int64_t n,
                  const PartialSums& first, const PartialSums& second) {
  if (!first.out && !second.out) return;
  const int64_t chunks = (n + kWarp - 1) / kWarp;
  launch(kernel, queue, Grid{first.out && second.out ? 2 * chunks : chunks, kRowThreads},
         Threads::together, add_partials_kernel, count, n, chunks, first.out ? first : second,
         second);
}

}  // namespace lockstep::cuda
