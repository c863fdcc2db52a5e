// The inner part of a matrix product: the register-blocked kernel that gemm and attention share.
// packing.h prepares its operands.
//
// Registers hold a block of C, kRowTile × kColumnTile, while k runs. Each step broadcasts an
// element of A against kVectors vectors of B. B is packed into panels of kColumnTile columns,
// [step][column] within a panel, so that it streams through the first cache. The last panel is only
// as wide as needed (whole vectors, zero-filled). A is read in place if its rows are dense in k.
//
// Each element of C is the same chain of fused multiply-adds over k, in whatever tile it lies. How
// a product is cut, and how many threads compute it, cannot change its bits. Only the blocks of k
// (kDepth) can.
#pragma once

#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Accumulators plus operands fill the register file: 16 registers up to AVX2, 32 with AVX-512.
inline constexpr int kRowTile = kLanes == 16 ? 8 : 4;
inline constexpr int kVectors = 3;
inline constexpr int kColumnTile = kVectors * kLanes;
// Steps in a block of k. A panel of B then streams from the second cache, and A's tile stays in the
// first.
inline constexpr int64_t kDepth = 384;

LOCKSTEP_INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// What one step of k multiplies, for each row and column. A packed element takes 4 bytes in both
// forms.
//
// Singles: one float. Packing widens bf16.
struct Singles {
  static constexpr int64_t kPerStep = 1;
  using Element = float;
  using Packed = float;
  using Vector = Vf;
  LOCKSTEP_MEMBER Vector vector(const Packed* b) { return load(b); }
  LOCKSTEP_MEMBER Vector broadcast(const char* a) { return splat(read<float>(a)); }
  LOCKSTEP_MEMBER Vf multiply_add(Vf sum, Vector a, Vector b) { return sum + a * b; }
};

#if LOCKSTEP_BF16_DOT
// Pairs: two neighbours in k, as the processor's bf16 products take them. VDPBF16PS adds both
// products to the f32 sum, rounds to nearest even, and treats subnormal numbers as zero. An odd k
// gets a zero on both sides.
struct Pairs {
  static constexpr int64_t kPerStep = 2;
  using Element = Bf16;
  using Packed = uint32_t;  // the lower half comes first
  using Vector = Vu;
  LOCKSTEP_MEMBER Vector vector(const Packed* b) { return read<Vector>(b); }
  LOCKSTEP_MEMBER Vector broadcast(const char* a) { return read<Packed>(a) - Vector{}; }
  LOCKSTEP_MEMBER Vf multiply_add(Vf sum, Vector a, Vector b) {
    return reinterpret_cast<Vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                 reinterpret_cast<__m512bh>(a),
                                                 reinterpret_cast<__m512bh>(b)));
  }
};
#endif

// How a product of matrices of T steps through k.
template <typename T>
struct StepsOfType {
  using Type = Singles;
};
#if LOCKSTEP_BF16_DOT
template <>
struct StepsOfType<Bf16> {
  using Type = Pairs;
};
#endif
template <typename T>
using StepsOf = typename StepsOfType<T>::Type;

template <typename S>
LOCKSTEP_INLINE int64_t steps(int64_t k) {
  return (k + S::kPerStep - 1) / S::kPerStep;
}

// Where A's elements are, in bytes. Row i, step p is at
//   data[(i / kRowTile)·tile_stride + (i % kRowTile)·row_stride + p·step]
struct PanelA {
  const char* data;
  int64_t tile_stride, row_stride, step;
};
// A stored [m, k], read in place. Bf16 is for Pairs: k must be even, or the element after it 0.
template <typename T>
LOCKSTEP_INLINE PanelA rows_of(const T* a, int64_t ld) {
  const int64_t row = ld * static_cast<int64_t>(sizeof(T));
  return {reinterpret_cast<const char*>(a), kRowTile * row, row, 4};
}
// Steps of A's transpose, stored [step, m].
template <typename Packed>
LOCKSTEP_INLINE PanelA columns_of(const Packed* a, int64_t ld) {
  return {reinterpret_cast<const char*>(a), kRowTile * 4, 4, ld * 4};
}

// What happens to C [m, n] at the end of a block of k. `bias` is [n] or nullptr. If `rounded` is
// set, the result goes there, [m, n] with ld_rounded elements from row to row. `c` then holds at
// most the sum of the earlier blocks.
struct Output {
  float* c;
  int64_t ld;
  bool add;
  const float* bias;
  Bf16* rounded = nullptr;
  int64_t ld_rounded = 0;
};

// Fetches C's lines while k runs. Their stores would otherwise wait for memory one after the other.
template <int ROWS, int VECTORS>
LOCKSTEP_INLINE void prefetch_tile(const Output& out) {
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v)
      if (out.rounded)
        __builtin_prefetch(out.rounded + i * out.ld_rounded + v * kLanes, 1);
      else
        __builtin_prefetch(out.c + i * out.ld + v * kLanes, 1);
}

template <typename S, int ROWS, int VECTORS>
static inline void micro_tile(int64_t count, const PanelA& place, const char* next,
                              const typename S::Packed* b, const Output& out, int64_t lanes_left) {
  prefetch_tile<ROWS, VECTORS>(out);
  Vf sum[ROWS][VECTORS] = {};
  const char* a = place.data;
  const int64_t row_stride = place.row_stride, step = place.step;
  for (int64_t p = 0; p < count; ++p) {
    typename S::Vector row[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) row[v] = S::vector(b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const typename S::Vector x = S::broadcast(a + i * row_stride);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[i][v] = S::multiply_add(sum[i][v], x, row[v]);
    }
    // Fetches A's next rows, one line of each per 16 steps. They come from memory while the first
    // panel runs, which is too short for the processor's own prefetching.
    __builtin_prefetch(next + p % kRowTile * row_stride + p / 16 * 64);
    a += step;
    b += VECTORS * kLanes;
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t left = lanes_left - v * kLanes;
      const int64_t lanes = left < kLanes ? left : kLanes;
      Vf value = sum[i][v];
      if (out.add) value = load_at(out.c + i * out.ld + v * kLanes, lanes) + value;
      if (out.bias) value = value + load_at(out.bias + v * kLanes, lanes);
      if (out.rounded)
        store_at(out.rounded + i * out.ld_rounded + v * kLanes, value, lanes);
      else
        store_at(out.c + i * out.ld + v * kLanes, value, lanes);
    }
}

// One panel of B against m rows of A.
template <typename S, int VECTORS>
static inline void micro_rows(int64_t m, int64_t count, PanelA a, const typename S::Packed* b,
                              Output out, int64_t columns) {
  int64_t i = 0;
  for (; i + kRowTile <= m; i += kRowTile) {
    micro_tile<S, kRowTile, VECTORS>(count, a, a.data + (i + 2 * kRowTile <= m ? a.tile_stride : 0),
                                     b, out, columns);
    a.data += a.tile_stride;
    out.c += kRowTile * out.ld;
    if (out.rounded) out.rounded += kRowTile * out.ld_rounded;
  }
  switch (m - i) {
    case 1: return micro_tile<S, 1, VECTORS>(count, a, a.data, b, out, columns);
    case 2: return micro_tile<S, 2, VECTORS>(count, a, a.data, b, out, columns);
    case 3: return micro_tile<S, 3, VECTORS>(count, a, a.data, b, out, columns);
#if LOCKSTEP_LANES == 16
    case 4: return micro_tile<S, 4, VECTORS>(count, a, a.data, b, out, columns);
    case 5: return micro_tile<S, 5, VECTORS>(count, a, a.data, b, out, columns);
    case 6: return micro_tile<S, 6, VECTORS>(count, a, a.data, b, out, columns);
    case 7: return micro_tile<S, 7, VECTORS>(count, a, a.data, b, out, columns);
#endif
    default: return;
  }
}

// C [m, n] (+)= A·B over one block of k; b is packed, n columns.
template <typename S>
static inline void micro_gemm(int64_t m, int64_t n, int64_t k, const PanelA& a,
                              const typename S::Packed* b, const Output& out) {
  const int64_t count = steps<S>(k);
  for (int64_t j = 0; j < n; j += kColumnTile) {
    Output here = out;
    here.c += j;
    if (here.bias) here.bias += j;
    if (here.rounded) here.rounded += j;
    const typename S::Packed* panel = b + j * count;
    const int64_t columns = n - j < kColumnTile ? n - j : kColumnTile;
    if (columns > 2 * kLanes)
      micro_rows<S, 3>(m, count, a, panel, here, columns);
    else if (columns > kLanes)
      micro_rows<S, 2>(m, count, a, panel, here, columns);
    else
      micro_rows<S, 1>(m, count, a, panel, here, columns);
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
