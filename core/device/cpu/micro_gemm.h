// The inner part of a matrix product: packing and the register-blocked kernel, shared by gemm and attention.
//
// A block of C, kRowTile × kColumnTile, is held in registers while k runs; each step broadcasts an element of A against
// kVectors vectors of B. B is packed into panels of kColumnTile columns, [k][column] within a panel, so that it streams through the
// first cache; the last panel is only as wide as needed (whole vectors, zero-filled). A is read in place where its rows
// are dense in k.
//
// Each element of C is the same chain of fused multiply-adds over k whatever the tile it falls into: how a product is cut
// up, and by how many threads, cannot change its bits. Only the blocks of k can (kDepth).
#pragma once

#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Accumulators plus operands fill the register file: 16 registers up to AVX2, 32 with AVX-512.
inline constexpr int kRowTile = kLanes == 16 ? 8 : 4;
inline constexpr int kVectors = 3;
inline constexpr int kColumnTile = kVectors * kLanes;
inline constexpr int64_t kDepth = 384;  // of a block of k: a panel of B streams from the second cache, A's tile stays in the first

LOCKSTEP_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where A's elements are: row i, step p is at data[(i / kRowTile)·tile_stride + (i % kRowTile)·row_stride + p·step].
struct PanelA {
  const float* data;
  int64_t tile_stride, row_stride, step;
};
// A stored [m, k], or its transpose, read in place.
LOCKSTEP_INLINE PanelA rows_of(const float* a, int64_t ld) { return {a, kRowTile * ld, ld, 1}; }
LOCKSTEP_INLINE PanelA columns_of(const float* a, int64_t ld) { return {a, kRowTile, 1, ld}; }

// What happens to C [m, n] at the end of a block of k. `bias` is [n], or nullptr.
struct Output {
  float* c;
  int64_t ld;
  bool add;
  const float* bias;
};

template <int ROWS, int VECTORS>
static inline void micro_tile(int64_t k, const float* a, int64_t row_stride, int64_t step, const float* b, const Output& out,
                              int64_t lanes_left) {
  Vf sum[ROWS][VECTORS] = {};
  for (int64_t p = 0; p < k; ++p) {
    Vf row[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const Vf x = splat(a[i * row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[i][v] += x * row[v];
    }
    a += step;
    b += VECTORS * kLanes;
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t left = lanes_left - v * kLanes;
      const int64_t lanes = left < kLanes ? left : kLanes;
      float* c = out.c + i * out.ld + v * kLanes;
      Vf value = sum[i][v];
      if (out.add) value = load_at(c, lanes) + value;
      if (out.bias) value = value + load_at(out.bias + v * kLanes, lanes);
      store_at(c, value, lanes);
    }
}

// One panel of B against m rows of A.
template <int VECTORS>
static inline void micro_rows(int64_t m, int64_t k, PanelA a, const float* b, Output out, int64_t columns) {
  int64_t i = 0;
  for (; i + kRowTile <= m; i += kRowTile, a.data += a.tile_stride, out.c += kRowTile * out.ld)
    micro_tile<kRowTile, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
  switch (m - i) {
    case 1: return micro_tile<1, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
    case 2: return micro_tile<2, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
    case 3: return micro_tile<3, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
#if LOCKSTEP_LANES == 16
    case 4: return micro_tile<4, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
    case 5: return micro_tile<5, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
    case 6: return micro_tile<6, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
    case 7: return micro_tile<7, VECTORS>(k, a.data, a.row_stride, a.step, b, out, columns);
#endif
    default: return;
  }
}

// C [m, n] (+)= A·B over one block of k steps; b is packed, n columns.
static inline void micro_gemm(int64_t m, int64_t n, int64_t k, const PanelA& a, const float* b, const Output& out) {
  for (int64_t j = 0; j < n; j += kColumnTile) {
    Output here = out;
    here.c += j;
    if (here.bias) here.bias += j;
    const float* panel = b + j * k;
    const int64_t columns = n - j < kColumnTile ? n - j : kColumnTile;
    if (columns > 2 * kLanes)
      micro_rows<3>(m, k, a, panel, here, columns);
    else if (columns > kLanes)
      micro_rows<2>(m, k, a, panel, here, columns);
    else
      micro_rows<1>(m, k, a, panel, here, columns);
  }
}

// Floats that a packed block of B takes.
LOCKSTEP_INLINE int64_t packed_size(int64_t k, int64_t n) { return k * round_up(n, kLanes); }

// Lanes of the first and second half of both vectors, alternating.
LOCKSTEP_INLINE void interleave(Vf a, Vf b, Vf* low, Vf* high) {
#if LOCKSTEP_LANES == 16
  const Vi lo = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const Vi hi = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  *low = __builtin_shuffle(a, b, lo);
  *high = __builtin_shuffle(a, b, hi);
#elif LOCKSTEP_LANES == 8
  const Vf even = reinterpret_cast<Vf>(_mm256_unpacklo_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  const Vf odd = reinterpret_cast<Vf>(_mm256_unpackhi_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  *low = reinterpret_cast<Vf>(_mm256_permute2f128_ps(reinterpret_cast<__m256>(even), reinterpret_cast<__m256>(odd), 0x20));
  *high = reinterpret_cast<Vf>(_mm256_permute2f128_ps(reinterpret_cast<__m256>(even), reinterpret_cast<__m256>(odd), 0x31));
#else
  *low = reinterpret_cast<Vf>(_mm_unpacklo_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
  *high = reinterpret_cast<Vf>(_mm_unpackhi_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#endif
}

// A kLanes × kLanes block. Interleaving row i with row i + half rotates the bits of (row, column) by one; after log2(kLanes)
// rotations they have changed places.
LOCKSTEP_INLINE void transpose(Vf (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    Vf next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) interleave(rows[i], rows[i + kLanes / 2], &next[2 * i], &next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// One vector's width of a panel from rows of the transpose: dst[p·width + lane] = src[lane·ld + p].
template <typename T>
static inline void pack_lanes_transposed(const T* src, int64_t ld, int64_t k, int64_t lanes, float* dst, int64_t width) {
  int64_t p = 0;
  for (; p < k; p += kLanes) {
    const int64_t steps = k - p < kLanes ? k - p : kLanes;
    Vf rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = lane < lanes ? load_at(src + lane * ld + p, steps) : Vf{};
    transpose(rows);
    if (steps == kLanes) {
#pragma GCC unroll 16
      for (int s = 0; s < kLanes; ++s) store(dst + (p + s) * width, rows[s]);
    } else {
      for (int s = 0; s < steps; ++s) store(dst + (p + s) * width, rows[s]);
    }
  }
}

// The panel of `columns` (at most kColumnTile) columns over k steps. src points at its first element, stored [k, n] or,
// `transposed`, [n, k], with ld elements from row to row.
template <typename T>
static inline void pack_panel(const T* src, int64_t ld, bool transposed, int64_t k, int64_t columns, float* dst) {
  const int64_t width = round_up(columns, kLanes);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t lanes = columns - j < kLanes ? columns - j : kLanes;
    if (transposed)
      pack_lanes_transposed(src + j * ld, ld, k, lanes, dst + j, width);
    else
      for (int64_t p = 0; p < k; ++p) store(dst + p * width + j, load_at(src + p * ld + j, lanes));
  }
}

// All panels of a [k, n] block.
template <typename T>
static inline void pack_block(const T* src, int64_t ld, bool transposed, int64_t k, int64_t n, float* dst) {
  for (int64_t j = 0; j < n; j += kColumnTile)
    pack_panel(src + (transposed ? j * ld : j), ld, transposed, k, n - j < kColumnTile ? n - j : kColumnTile, dst + j * k);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
