// Kernels over rows of [rows, n]. A team of threads works on a row: a warp if the row is short,
// else a block. Each thread takes packs of neighbours, TEAM packs apart. Which thread takes which
// element depends on n and the dtype alone: where memory is not aligned for packs, the same thread
// loads the same elements one by one.
#pragma once

#include <algorithm>

#include "core/device/cuda/kernels/block.h"
#include "core/device/cuda/kernels/dispatch.h"

namespace lockstep::cuda {

inline constexpr int64_t kShortRow = 1024;  // elements of the longest row of one warp
inline constexpr int64_t kLongRow = 8192;   // beyond it, a row gets the largest block
inline constexpr int kRowThreads = 256;     // threads of a block of warps, and of a middling row
inline constexpr int kLongRowThreads = 1024;
inline constexpr int64_t kMostBlocks = int64_t{1} << 30;  // of a grid

// Calls f with the size of the team for a row of n, as a constant: f(std::integral_constant<…>{}).
template <class F>
void with_team(int64_t n, const F& f) {
  if (n <= kShortRow) return f(std::integral_constant<int, kWarp>{});
  if (n <= kLongRow) return f(std::integral_constant<int, kRowThreads>{});
  f(std::integral_constant<int, kLongRowThreads>{});
}

// Threads of a block that holds whole teams.
template <int TEAM>
inline constexpr int kTeamThreads = TEAM == kWarp ? kRowThreads : TEAM;

template <int TEAM>
Grid grid_of_rows(int64_t rows) {
  constexpr int64_t kTeams = kTeamThreads<TEAM> / TEAM;
  return {std::min((rows + kTeams - 1) / kTeams, kMostBlocks), kTeamThreads<TEAM>};
}

// This thread's number in its team.
template <int TEAM>
__device__ __forceinline__ int team_thread() {
  return static_cast<int>(threadIdx.x % TEAM);
}

// Calls f(row) for each row of this thread's team. All threads of a team make the same calls.
template <int TEAM, class F>
__device__ __forceinline__ void for_rows(int64_t rows, const F& f) {
  constexpr int64_t kTeams = kTeamThreads<TEAM> / TEAM;
  const int64_t first = int64_t{blockIdx.x} * kTeams + threadIdx.x / TEAM;
  for (int64_t row = first; row < rows; row += int64_t{gridDim.x} * kTeams) f(row);
}

// Calls f(i, count) for each pack of N of this thread in a row of n. It holds elements [i, i + N),
// of which the row has the first `count`; count may be larger than N.
template <int TEAM, int N, class F>
__device__ __forceinline__ void for_packs(int64_t n, const F& f) {
  for (int64_t i = int64_t{team_thread<TEAM>()} * N; i < n; i += TEAM * N) f(i, n - i);
}

template <int TEAM, class A, class Two>
__device__ __forceinline__ A team_combine(A value, Two two) {
  if constexpr (TEAM == kWarp) return warp_combine(value, two);
  if constexpr (TEAM != kWarp) return block_combine<TEAM>(value, two);
}
template <int TEAM, class A>
__device__ __forceinline__ A team_sum(A value) {
  return team_combine<TEAM>(value, Add{});
}

template <int N, class T>
__device__ __forceinline__ bool aligned_for(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, N>) == 0;
}

// The first `count` of N elements at p; the others are `fill`.
template <int N, class T>
__device__ __forceinline__ Pack<Compute<T>, N> load_some(const T* p, int64_t count,
                                                         Compute<T> fill = {}) {
  if (count >= N && aligned_for<N>(p)) return load<N>(p);
  Pack<Compute<T>, N> values;
#pragma unroll
  for (int j = 0; j < N; ++j) values.at[j] = j < count ? static_cast<Compute<T>>(p[j]) : fill;
  return values;
}

// Stores the first `count` of N values at p, plus what stands there if `accumulate`.
template <int N, class T>
__device__ __forceinline__ void store_some(T* p, int64_t count, Pack<Compute<T>, N> values,
                                           bool accumulate = false) {
  if (accumulate) {
    const Pack<Compute<T>, N> old = load_some<N>(p, count);
#pragma unroll
    for (int j = 0; j < N; ++j) values.at[j] = old.at[j] + values.at[j];
  }
  if (count >= N && aligned_for<N>(p)) return store<N>(p, values);
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (j < count) p[j] = static_cast<T>(values.at[j]);
}

}  // namespace lockstep::cuda
