// Packs the operands of micro_gemm: panels of B, and tiles of a transposed A.
#pragma once

#include "core/device/cpu/micro_gemm.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Number of elements in a packed block of B.
template <typename S>
LOCKSTEP_INLINE int64_t packed_size(int64_t k, int64_t n) {
  return steps<S>(k) * round_up(n, kLanes);
}

// ---- what one step takes from `lanes` neighbouring columns, at position p of k ----
// Rows p.. of a matrix stored [k, columns], `left` of them in all.
template <typename T>
LOCKSTEP_INLINE Vf take_step(Singles, const T* row, int64_t, int64_t, int64_t lanes) {
  return load_at(row, lanes);
}
#if LOCKSTEP_BF16_DOT
LOCKSTEP_INLINE Vu take_step(Pairs, const Bf16* row, int64_t ld, int64_t left, int64_t lanes) {
  const Vu first = load_bits(row, lanes), second = left > 1 ? load_bits(row + ld, lanes) : Vu{};
  return first | (second << 16);
}
#endif
// kLanes steps of one column of a matrix stored [columns, k], of which `left` elements exist.
template <typename T>
LOCKSTEP_INLINE Vf take_column(Singles, const T* column, int64_t left) {
  return load_at(column, left < kLanes ? left : kLanes);
}
#if LOCKSTEP_BF16_DOT
LOCKSTEP_INLINE Vf take_column(Pairs, const Bf16* column, int64_t left) {
  const auto some =
      left < 2 * kLanes ? static_cast<__mmask32>((uint32_t{1} << left) - 1u) : ~__mmask32{0};
  return reinterpret_cast<Vf>(_mm512_maskz_loadu_epi16(some, column));
}
#endif
LOCKSTEP_INLINE void put(float* to, Vf v) { store(to, v); }
LOCKSTEP_INLINE void put(uint32_t* to, Vf v) { memcpy(to, &v, sizeof v); }
LOCKSTEP_INLINE void put(uint32_t* to, Vu v) { memcpy(to, &v, sizeof v); }

// Lanes of the first and of the second half of both vectors, alternating.
LOCKSTEP_INLINE void interleave(Vf a, Vf b, Vf* low, Vf* high) {
#if LOCKSTEP_LANES == 16
  *low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *high =
      __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LOCKSTEP_LANES == 8
  const Vf even = reinterpret_cast<Vf>(
      _mm256_unpacklo_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  const Vf odd = reinterpret_cast<Vf>(
      _mm256_unpackhi_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  *low = reinterpret_cast<Vf>(
      _mm256_permute2f128_ps(reinterpret_cast<__m256>(even), reinterpret_cast<__m256>(odd), 0x20));
  *high = reinterpret_cast<Vf>(
      _mm256_permute2f128_ps(reinterpret_cast<__m256>(even), reinterpret_cast<__m256>(odd), 0x31));
#else
  *low = reinterpret_cast<Vf>(
      _mm_unpacklo_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
  *high = reinterpret_cast<Vf>(
      _mm_unpackhi_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#endif
}

// Transposes a kLanes × kLanes block. Interleaving row i with row i + half rotates the bits of
// (row, column) by one. After log2(kLanes) rotations row and column have changed places.
LOCKSTEP_INLINE void transpose(Vf (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    Vf next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i)
      interleave(rows[i], rows[i + kLanes / 2], &next[2 * i], &next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// Packs one vector's width of a panel from rows of the transpose.
template <typename S, typename T>
static inline void pack_lanes_transposed(const T* src, int64_t ld, int64_t k, int64_t lanes,
                                         typename S::Packed* dst, int64_t width) {
  for (int64_t p = 0; p < k; p += kLanes * S::kPerStep) {
    const int64_t count = steps<S>(k - p);
    Vf rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane)
      rows[lane] = lane < lanes ? take_column(S{}, src + lane * ld + p, k - p) : Vf{};
    transpose(rows);
    typename S::Packed* to = dst + p / S::kPerStep * width;
    if (count >= kLanes) {
#pragma GCC unroll 16
      for (int s = 0; s < kLanes; ++s) put(to + s * width, rows[s]);
    } else {
      for (int s = 0; s < count; ++s) put(to + s * width, rows[s]);
    }
  }
}

// Packs the panel of `columns` (at most kColumnTile) columns over k. src points at its first
// element, stored [k, n] or, if `transposed`, [n, k], with ld elements from row to row.
template <typename S, typename T>
static inline void pack_panel(const T* src, int64_t ld, bool transposed, int64_t k, int64_t columns,
                              typename S::Packed* dst) {
  const int64_t width = round_up(columns, kLanes);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t lanes = columns - j < kLanes ? columns - j : kLanes;
    if (transposed)
      pack_lanes_transposed<S>(src + j * ld, ld, k, lanes, dst + j, width);
    else
      for (int64_t p = 0; p < k; p += S::kPerStep)
        put(dst + p / S::kPerStep * width + j, take_step(S{}, src + p * ld + j, ld, k - p, lanes));
  }
}

// Packs all panels of a [k, n] block.
template <typename S, typename T>
static inline void pack_block(const T* src, int64_t ld, bool transposed, int64_t k, int64_t n,
                              typename S::Packed* dst) {
  for (int64_t j = 0; j < n; j += kColumnTile)
    pack_panel<S>(src + (transposed ? j * ld : j), ld, transposed, k,
                  n - j < kColumnTile ? n - j : kColumnTile, dst + j * steps<S>(k));
}

// Number of elements in the tiles of a transposed A of m rows. Each tile has one line of padding:
// the tiles' starts would otherwise fall into one set of the first cache.
inline constexpr int64_t kTileGap = 16;
template <typename S>
LOCKSTEP_INLINE int64_t tiles_size(int64_t m, int64_t k) {
  return round_up(m, kLanes) / kRowTile * (kRowTile * steps<S>(k) + kTileGap);
}

// Copies a transposed block, stored [k, m], into tiles of kRowTile rows, [step][row] each. It
// copies a few cache lines' worth of rows at a time, so that lines are read whole and few tiles are
// written at once.
template <typename S, typename T>
PanelA pack_a_transposed(const T* src, int64_t ld, int64_t m, int64_t k, typename S::Packed* dst) {
  constexpr int64_t kAtOnce = 64;
  const int64_t tile = kRowTile * steps<S>(k) + kTileGap;
  for (int64_t first = 0; first < m; first += kAtOnce) {
    const int64_t rows = m - first < kAtOnce ? m - first : kAtOnce;
    for (int64_t p = 0; p < k; p += S::kPerStep) {
      typename S::Packed* to = dst + first / kRowTile * tile + p / S::kPerStep * kRowTile;
      for_vectors(rows, [&](int64_t i, int64_t lanes) {
        __builtin_prefetch(src + (p + 8) * ld + first + i);
        const auto v = take_step(S{}, src + p * ld + first + i, ld, k - p, lanes);
        Quarter part[kLanes / 4];
        memcpy(part, &v, sizeof v);
#pragma GCC unroll 4
        for (int q = 0; q < kLanes / 4; ++q)
          memcpy(to + (i + 4 * q) / kRowTile * tile + 4 * q % kRowTile, &part[q], sizeof(Quarter));
      });
    }
  }
  return {reinterpret_cast<const char*>(dst), 4 * tile, 4, 4 * kRowTile};
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
