// Layer norm and RMS norm. A block of the backward pass goes through a fixed block of rows, and
// leaves its part of the gradients of weight and bias. The last block of each kGroup adds their
// parts in order, and the last group adds those of all groups.
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/arrivals.h"
#include "core/device/cuda/kernels/columns.h"
#include "core/device/cuda/kernels/rows.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

// CENTRED: layer norm. Otherwise RMS norm, which has neither mean nor bias.
template <class T>
struct Forward {
  int64_t rows, n;
  float eps;
  const T* x;
  const float *weight, *bias;  // each may be nullptr
  T* y;
  float *mean, *rstd;
};

constexpr int64_t kGroup = 16;  // blocks of the backward pass
constexpr int64_t kMostGroups = kNormWords - 1;

// The counts behind a norm's statistics: 0 between two passes.
__host__ __device__ __forceinline__ unsigned* arrivals_of(float* rstd, int64_t rows) {
  return reinterpret_cast<unsigned*>(rstd + rows);
}

template <bool CENTRED, class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>) norm_kernel(Forward<T> a) {
  constexpr int N = kPack<T>;
  if (blockIdx.x == 0 && threadIdx.x < kNormWords) arrivals_of(a.rstd, a.rows)[threadIdx.x] = 0;
  const float size = static_cast<float>(a.n);
  for_rows<TEAM>(a.rows, [&](int64_t row) {
    const T* x = a.x + row * a.n;
    float mean = 0.0f;
    if constexpr (CENTRED) {
      float sum = 0.0f;
      for_packs<TEAM, N>(a.n, [&](int64_t i, int64_t count) {
        const auto v = load_some<N>(x + i, count);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += v.at[j];
      });
      mean = team_sum<TEAM>(sum) / size;
    }
    float square = 0.0f;
    for_packs<TEAM, N>(a.n, [&](int64_t i, int64_t count) {
      const auto v = load_some<N>(x + i, count, mean);
#pragma unroll
      for (int j = 0; j < N; ++j) square += (v.at[j] - mean) * (v.at[j] - mean);
    });
    const float rstd = 1.0f / sqrtf(team_sum<TEAM>(square) / size + a.eps);
    for_packs<TEAM, N>(a.n, [&](int64_t i, int64_t count) {
      auto v = load_some<N>(x + i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) v.at[j] = (v.at[j] - mean) * rstd;
      if (a.weight) {
        const auto w = load_some<N>(a.weight + i, count);
#pragma unroll
        for (int j = 0; j < N; ++j) v.at[j] *= w.at[j];
      }
      if (a.bias) {
        const auto b = load_some<N>(a.bias + i, count);
#pragma unroll
        for (int j = 0; j < N; ++j) v.at[j] += b.at[j];
      }
      store_some<N>(a.y + row * a.n + i, count, v);
    });
    if (team_thread<TEAM>() != 0) return;
    if constexpr (CENTRED) a.mean[row] = mean;
    a.rstd[row] = rstd;
  });
}

template <bool CENTRED, class T>
void forward(const char* kernel, const Queue& queue, const Forward<T>& args) {
  with_team(args.n, [&](auto team) {
    launch(kernel, queue, grid_of_rows<team>(args.rows), Threads::together,
           norm_kernel<CENTRED, T, team>, args);
  });
}

template <class T>
struct Backward {
  int64_t rows, n;
  int64_t block_rows;
  const T* x;
  const float *weight, *mean, *rstd;
  const T* dy;
  T* dx;
  bool accumulate_dx;
  float *dweight, *dbias;  // [blocks + groups, n], each may be nullptr
  unsigned* arrived;       // [groups + 1]
  PartialSums weight_sums, bias_sums;
};

// to [n] (+)= the rows of from [count, n]; nothing without `from`.
__device__ __forceinline__ void add_rows_of(const float* from, int64_t count, int64_t n, float* to,
                                            bool accumulate) {
  if (!from) return;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    float sum = __ldcg(from + i);
#pragma unroll 8
    for (int64_t row = 1; row < count; ++row) sum += __ldcg(from + row * n + i);
    to[i] = accumulate ? to[i] + sum : sum;
  }
}

// Adds the blocks' parts of the gradients of weight and bias, once they are all there.
template <class T>
__device__ __forceinline__ void add_parts(const Backward<T>& a) {
  const int64_t n = a.n, blocks = gridDim.x, groups = (blocks + kGroup - 1) / kGroup;
  const int64_t group = blockIdx.x / kGroup, first = group * kGroup;
  const int64_t count = blocks - first < kGroup ? blocks - first : kGroup;
  if (!last_to_arrive(a.arrived + group, static_cast<unsigned>(count))) return;
  const auto add_group = [&](float* parts) {
    if (parts) add_rows_of(parts + first * n, count, n, parts + (blocks + group) * n, false);
  };
  add_group(a.dweight);
  add_group(a.dbias);
  if (!last_to_arrive(a.arrived + groups, static_cast<unsigned>(groups))) return;
  const auto add_all = [&](const float* parts, float* to, bool accumulate) {
    if (parts) add_rows_of(parts + blocks * n, groups, n, to, accumulate);
  };
  add_all(a.dweight, a.weight_sums.out, a.weight_sums.accumulate);
  add_all(a.dbias, a.bias_sums.out, a.bias_sums.accumulate);
}

// One row, with x̂ = (x − mean)·rstd and g = dy·weight:
//   layer norm: dx = rstd·(g − avg(g) − x̂·avg(g·x̂))
//   RMS norm:   the same without avg(g), and mean 0
template <class T>
struct BackwardRow {
  static constexpr int N = kPack<T>;
  const T *x, *dy;
  const float* weight;
  float mean, rstd;

  __device__ Pack<float, N> normalised(int64_t i, int64_t count) const {
    auto v = load_some<N>(x + i, count);
#pragma unroll
    for (int j = 0; j < N; ++j) v.at[j] = (v.at[j] - mean) * rstd;
    return v;
  }
  __device__ Pack<float, N> weighted(Pack<float, N> g, int64_t i, int64_t count) const {
    if (!weight) return g;
    const auto w = load_some<N>(weight + i, count);
#pragma unroll
    for (int j = 0; j < N; ++j) g.at[j] *= w.at[j];
    return g;
  }
};

// Calls f(p, i, count) for each pack of this thread, as for_packs() does; p counts them. PACKS is
// the most that a thread has, so that p is a constant; 0: any number, and p is always 0.
template <int TEAM, int PACKS, int N, class F>
__device__ __forceinline__ void for_numbered_packs(int64_t n, const F& f) {
  if constexpr (PACKS == 0) {
    for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) { f(0, i, count); });
  } else {
#pragma unroll
    for (int p = 0; p < PACKS; ++p) {
      const int64_t i = (p * TEAM + team_thread<TEAM>()) * N;
      if (i < n) f(p, i, n - i);
    }
  }
}

// The sums of a gradient over the rows of a team, for the columns of this thread: in registers, or
// in memory if PACKS is 0.
template <int TEAM, int PACKS, int N>
struct ColumnSums {
  float* out;  // the block's row of sums; nullptr: not wanted
  float kept[PACKS > 0 ? PACKS : 1][N] = {};

  __device__ void add(int p, int64_t i, int64_t count, const Pack<float, N>& v, bool first) {
    if (!out) return;
    if constexpr (PACKS == 0) {
      store_some<N>(out + i, count, v, !first);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) kept[p][j] += v.at[j];
    }
  }
  // All threads of the block call. The sums of several teams are added in order.
  __device__ void write(int64_t n) {
    if (!out) return;
    if constexpr (PACKS > 0 && TEAM == kWarp) write_warps(n);
    if constexpr (PACKS > 0 && TEAM != kWarp) write_block(n);
  }

 private:
  __device__ void write_block(int64_t n) {
    for_numbered_packs<TEAM, PACKS, N>(n, [&](int p, int64_t i, int64_t count) {
      Pack<float, N> v;
#pragma unroll
      for (int j = 0; j < N; ++j) v.at[j] = kept[p][j];
      store_some<N>(out + i, count, v);
    });
  }
  __device__ void write_warps(int64_t n) {
    __shared__ float total[kShortRow];
    const int thread = static_cast<int>(threadIdx.x);
    for (int warp = 0; warp < kRowThreads / kWarp; ++warp) {
      if (thread / kWarp == warp)
        for_numbered_packs<kWarp, PACKS, N>(n, [&](int p, int64_t i, int64_t) {
#pragma unroll
          for (int j = 0; j < N; ++j)
            total[i + j] = warp == 0 ? kept[p][j] : total[i + j] + kept[p][j];
        });
      __syncthreads();
    }
    for (int64_t i = thread; i < n; i += kRowThreads) out[i] = total[i];
    __syncthreads();  // `total` is free for other sums
  }
};

template <bool CENTRED, class T, int TEAM, int PACKS>
__global__ void __launch_bounds__(kTeamThreads<TEAM>) norm_backward_kernel(Backward<T> a) {
  constexpr int N = kPack<T>, kTeams = kTeamThreads<TEAM> / TEAM;
  const int64_t n = a.n, block = blockIdx.x, first = block * a.block_rows;
  const int64_t end = a.rows - first < a.block_rows ? a.rows : first + a.block_rows;
  ColumnSums<TEAM, PACKS, N> dweight{a.dweight ? a.dweight + block * n : nullptr};
  ColumnSums<TEAM, PACKS, N> dbias{a.dbias ? a.dbias + block * n : nullptr};
  for (int64_t row = first + threadIdx.x / TEAM; row < end; row += kTeams) {
    const BackwardRow<T> r{a.x + row * n, a.dy + row * n, a.weight, CENTRED ? a.mean[row] : 0.0f,
                           a.rstd[row]};
    Pair sums{};  // of g, and of g·x̂
    for_numbered_packs<TEAM, PACKS, N>(n, [&](int p, int64_t i, int64_t count) {
      const auto dy = load_some<N>(r.dy + i, count);
      auto xhat = r.normalised(i, count);
      const auto g = r.weighted(dy, i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sums.a += g.at[j];
        sums.b += g.at[j] * xhat.at[j];  // g is 0 beyond the row's end
        xhat.at[j] *= dy.at[j];
      }
      dweight.add(p, i, count, xhat, row == first);
      dbias.add(p, i, count, dy, row == first);
    });
    sums = team_sum<TEAM>(sums);
    const float average = CENTRED ? sums.a / static_cast<float>(n) : 0.0f;
    const float projection = sums.b / static_cast<float>(n);
    for_numbered_packs<TEAM, PACKS, N>(n, [&](int, int64_t i, int64_t count) {
      const auto xhat = r.normalised(i, count);
      auto d = r.weighted(load_some<N>(r.dy + i, count), i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) d.at[j] = r.rstd * (d.at[j] - average - xhat.at[j] * projection);
      store_some<N>(a.dx + row * n + i, count, d, a.accumulate_dx);
    });
  }
  dweight.write(n);
  dbias.write(n);
  if (a.dweight || a.dbias) add_parts(a);
}

// Calls f(team, packs): the size of a team and the most packs of a thread, as constants. Threads
// keep at most 32 sums of each gradient in registers.
template <int N, class F>
void with_packs(int64_t n, const F& f) {
  const auto call = [&]<int TEAM, int PACKS>() {
    f(std::integral_constant<int, TEAM>{}, std::integral_constant<int, PACKS>{});
  };
  if (n <= kShortRow / 4) return call.template operator()<kWarp, 8 / N>();
  if (n <= kShortRow) return call.template operator()<kWarp, 32 / N>();
  if (n <= kLongRow / 4) return call.template operator()<kRowThreads, 8 / N>();
  if (n <= kLongRow) return call.template operator()<kRowThreads, 32 / N>();
  call.template operator()<kLongRowThreads, 0>();
}

// Rows of a block: few enough to occupy a device, and enough that the parts cost little.
int64_t rows_of_block(int64_t rows, int64_t n) {
  const int64_t most_blocks = n <= kShortRow ? 512 : 256, least = n <= kShortRow ? 32 : 4;
  static_assert(512 <= kMostGroups * kGroup);
  return std::max((rows + most_blocks - 1) / most_blocks, least);
}

template <bool CENTRED, class T>
void backward(const char* kernel, const Queue& queue, Backward<T> args, float* dweight,
              bool accumulate_dweight, float* dbias, bool accumulate_dbias) {
  if (args.n == 0) return;
  args.block_rows = rows_of_block(args.rows, args.n);
  const int64_t blocks = (args.rows + args.block_rows - 1) / args.block_rows;
  const int64_t groups = (blocks + kGroup - 1) / kGroup;
  const int64_t part = (dweight || dbias) ? (blocks + groups) * args.n : 0;
  const Workspace space(queue, static_cast<size_t>(std::max(2 * part, int64_t{1})) * sizeof(float));
  args.dweight = dweight ? space.as<float>() : nullptr;
  args.dbias = dbias ? space.as<float>() + part : nullptr;
  args.weight_sums = {args.dweight, dweight, accumulate_dweight};
  args.bias_sums = {args.dbias, dbias, accumulate_dbias};
  if (blocks == 0)  // there are no parts: the sums are 0
    return add_partials(kernel, queue, 0, args.n, args.weight_sums, args.bias_sums);
  with_packs<kPack<T>>(args.n, [&](auto team, auto packs) {
    launch(kernel, queue, Grid{blocks, kTeamThreads<team>}, Threads::together,
           norm_backward_kernel<CENTRED, T, team, packs>, args);
  });
}

}  // namespace

void layer_norm(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
                const float* weight, const float* bias, void* y, float* mean, float* rstd) {
  dispatch_float("layer_norm", dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<true, T>(
        "layer_norm", queue,
        {rows, n, eps, static_cast<const T*>(x), weight, bias, static_cast<T*>(y), mean, rstd});
  });
}

void rms_norm(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
              const float* weight, void* y, float* rstd) {
  dispatch_float("rms_norm", dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<false, T>("rms_norm", queue,
                      {rows, n, eps, static_cast<const T*>(x), weight, nullptr, static_cast<T*>(y),
                       nullptr, rstd});
  });
}

void layer_norm_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                         const float* weight, const float* mean, float* rstd, const void* dy,
                         void* dx, bool accumulate_dx, float* dweight, bool accumulate_dweight,
                         float* dbias, bool accumulate_dbias) {
  dispatch_float("layer_norm_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> args{rows,
                           n,
                           0,
                           static_cast<const T*>(x),
                           weight,
                           mean,
                           rstd,
                           static_cast<const T*>(dy),
                           static_cast<T*>(dx),
                           accumulate_dx,
                           nullptr,
                           nullptr,
                           arrivals_of(rstd, rows),
                           {},
                           {}};
    backward<true>("layer_norm_backward", queue, args, dweight, accumulate_dweight, dbias,
                   accumulate_dbias);
  });
}

void rms_norm_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                       const float* weight, float* rstd, const void* dy, void* dx,
                       bool accumulate_dx, float* dweight, bool accumulate_dweight) {
  dispatch_float("rms_norm_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> args{rows,
                           n,
                           0,
                           static_cast<const T*>(x),
                           weight,
                           nullptr,
                           rstd,
                           static_cast<const T*>(dy),
                           static_cast<T*>(dx),
                           accumulate_dx,
                           nullptr,
                           nullptr,
                           arrivals_of(rstd, rows),
                           {},
                           {}};
    backward<false>("rms_norm_backward", queue, args, dweight, accumulate_dweight, nullptr, false);
  });
}

}  // namespace lockstep::cuda
