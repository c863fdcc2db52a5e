// Softmax along rows.
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/exp_sum.h"

namespace lockstep::cuda {
namespace {

template <class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    softmax_kernel(int64_t rows, int64_t n, const T* x, T* y) {
  constexpr int N = kPack<T>;
  for_rows<TEAM>(rows, [&](int64_t row) {
    const T* in = x + row * n;
    const Pair sum = row_exp_sum<TEAM>(n, in);
    const float scale = 1.0f / sum.b;
    for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) {
      auto value = load_some<N>(in + i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) value.at[j] = expf(value.at[j] - sum.a) * scale;
      store_some<N>(y + row * n + i, count, value);
    });
  });
}

// dx = y·(dy − Σ y·dy).
template <class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    softmax_backward_kernel(int64_t rows, int64_t n, const T* y, const T* dy, T* dx,
                            bool accumulate) {
  constexpr int N = kPack<T>;
  for_rows<TEAM>(rows, [&](int64_t row) {
    const T *p = y + row * n, *g = dy + row * n;
    float dot = 0.0f;
    for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) {
      const auto yi = load_some<N>(p + i, count), gi = load_some<N>(g + i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) dot += yi.at[j] * gi.at[j];
    });
    dot = team_sum<TEAM>(dot);
    for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) {
      auto d = load_some<N>(p + i, count);
      const auto gi = load_some<N>(g + i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) d.at[j] *= gi.at[j] - dot;
      store_some<N>(dx + row * n + i, count, d, accumulate);
    });
  });
}

}  // namespace

void softmax(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x, void* y) {
  dispatch_float("softmax", dtype, [&](auto zero) {
    using T = decltype(zero);
    with_team(n, [&](auto team) {
      launch("softmax", queue, grid_of_rows<team>(rows), Threads::together, softmax_kernel<T, team>,
             rows, n, static_cast<const T*>(x), static_cast<T*>(y));
    });
  });
}

void softmax_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* y,
                      const void* dy, void* dx, bool accumulate) {
  dispatch_float("softmax_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    with_team(n, [&](auto team) {
      launch("softmax_backward", queue, grid_of_rows<team>(rows), Threads::together,
             softmax_backward_kernel<T, team>, rows, n, static_cast<const T*>(y),
             static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
    });
  });
}

}  // namespace lockstep::cuda
