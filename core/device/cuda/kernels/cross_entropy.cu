// Cross entropy over the softmax of the last axis. The gradient of the logits exists only in their
// dtype.
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/exp_sum.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

__device__ __forceinline__ bool in_range(int64_t target, int64_t classes) {
  return target >= 0 && target < classes;
}

template <class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    row_losses_kernel(int64_t rows, int64_t classes, const T* logits, const int32_t* targets,
                      int32_t ignore, float* lse, float* losses) {
  for_rows<TEAM>(rows, [&](int64_t row) {
    const T* in = logits + row * classes;
    const Pair sum = row_exp_sum<TEAM>(classes, in);
    if (team_thread<TEAM>() != 0) return;
    const float value = sum.a + logf(sum.b);
    const int32_t target = targets[row];
    lse[row] = value;
    losses[row] = target == ignore            ? 0.0f
                  : in_range(target, classes) ? value - static_cast<float>(in[target])
                                              : NAN;
  });
}

constexpr int kTreeThreads = 1024;

// The fixed tree's sum of `count` numbers, a power of two, of which those from `here` on are 0. A
// number waits at the level that its place has bits set below, as in a binary counter.
__device__ float tree_sum(const float* values, int64_t count, int64_t here) {
  float waiting[64], sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    sum = i < here ? values[i] : 0.0f;
    int level = 0;
    for (int64_t bits = i; bits & 1; bits >>= 1) sum = waiting[level++] + sum;
    waiting[level] = sum;
  }
  return sum;  // the last number completes the tree
}

// One block. Each thread sums a node of the tree; then the threads' nodes are combined.
__global__ void __launch_bounds__(kTreeThreads)
    mean_loss_kernel(int64_t rows, int64_t each, const float* losses, const int32_t* targets,
                     int32_t ignore, float* loss, int64_t* counted) {
  const int64_t first = threadIdx.x * each;
  const int64_t here = rows - first < each ? rows - first : each;
  int64_t count = 0;
  for (int64_t i = 0; i < here; ++i) count += targets[first + i] != ignore;
  const float total = block_sum<kTreeThreads>(tree_sum(losses + first, each, here));
  count = block_sum<kTreeThreads>(count);
  if (threadIdx.x != 0) return;
  *loss = total / static_cast<float>(count);
  *counted = count;
}

template <class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    cross_entropy_backward_kernel(int64_t rows, int64_t classes, const T* logits,
                                  const int32_t* targets, int32_t ignore, const float* lse,
                                  const int64_t* counted, const float* scale, T* dlogits) {
  constexpr int N = kPack<T>;
  const float mean = *counted > 0 ? *scale / static_cast<float>(*counted) : 0.0f;
  for_rows<TEAM>(rows, [&](int64_t row) {
    const T* in = logits + row * classes;
    const int32_t target = targets[row];
    const float shift = lse[row];
    const bool ignored = target == ignore;
    const float factor = ignored || in_range(target, classes) ? mean : NAN;
    for_packs<TEAM, N>(classes, [&](int64_t i, int64_t count) {
      Pack<float, N> v{};
      if (!ignored) {
        v = load_some<N>(in + i, count);
#pragma unroll
        for (int j = 0; j < N; ++j)
          v.at[j] = (expf(v.at[j] - shift) - (i + j == target ? 1.0f : 0.0f)) * factor;
      }
      store_some<N>(dlogits + row * classes + i, count, v);
    });
  });
}

}  // namespace

void cross_entropy(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                   const void* logits, const int32_t* targets, int32_t ignore, float* loss,
                   float* lse, int64_t* counted) {
  const Workspace space(queue, static_cast<size_t>(std::max(rows, int64_t{1})) * sizeof(float));
  dispatch_float("cross_entropy", dtype, [&](auto zero) {
    using T = decltype(zero);
    with_team(classes, [&](auto team) {
      launch("cross_entropy", queue, grid_of_rows<team>(rows), Threads::together,
             row_losses_kernel<T, team>, rows, classes, static_cast<const T*>(logits), targets,
             ignore, lse, space.as<float>());
    });
  });
  int64_t each = 1;  // rows of a thread, a power of two
  while (each * kTreeThreads < rows) each *= 2;
  launch("cross_entropy", queue, Grid{1, kTreeThreads}, Threads::together, mean_loss_kernel, rows,
         each, space.as<float>(), targets, ignore, loss, counted);
}

void cross_entropy_backward(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                            const void* logits, const int32_t* targets, int32_t ignore,
                            const float* lse, const int64_t* counted, const float* scale,
                            void* dlogits) {
  dispatch_float("cross_entropy_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    with_team(classes, [&](auto team) {
      launch("cross_entropy_backward", queue, grid_of_rows<team>(rows), Threads::independent,
             cross_entropy_backward_kernel<T, team>, rows, classes, static_cast<const T*>(logits),
             targets, ignore, lse, counted, scale, static_cast<T*>(dlogits));
    });
  });
}

}  // namespace lockstep::cuda
