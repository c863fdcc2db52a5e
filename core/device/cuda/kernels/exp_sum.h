// The sum of a row's exponentials, in one pass over memory.
#pragma once

#include "core/device/cuda/kernels/rows.h"

namespace lockstep::cuda {

// A sum of exp(x − a) over numbers x whose maximum is a: {a, sum}. The sum of no numbers, or of
// −infinities alone, is {−infinity, 0}.
struct AddExpSums {
  __device__ Pair operator()(Pair x, Pair y) const {
    const float top = fmaxf(x.a, y.a);
    return {top, at(top, x) + at(top, y)};
  }
  // The sum for another maximum. An equal one changes nothing, not even if both are infinite.
  static __device__ float at(float top, Pair x) { return x.a == top ? x.b : x.b * expf(x.a - top); }
};

// {maximum, sum of exp(x − maximum)} of a row of n > 0 numbers; all threads of the team get it. The
// sum is NaN if a number is NaN, if one is +infinity, or if all are −infinity.
template <int TEAM, class T>
__device__ __forceinline__ Pair row_exp_sum(int64_t n, const T* row) {
  constexpr int N = kPack<T>;
  Pair total{-INFINITY, 0.0f};
  for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) {
    const auto x = load_some<N>(row + i, count, -INFINITY);
    float top = total.a;
#pragma unroll
    for (int j = 0; j < N; ++j) top = fmaxf(top, x.at[j]);
    total = {top, AddExpSums::at(top, total)};
    const float shift = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int j = 0; j < N; ++j) total.b += expf(x.at[j] - shift);
  });
  total = team_combine<TEAM>(total, AddExpSums{});
  if (total.a == -INFINITY) total.b = NAN;
  return total;
}

}  // namespace lockstep::cuda
