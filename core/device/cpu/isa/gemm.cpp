#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/micro_gemm.h"
#include "core/device/cpu/pieces.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kRowBlock = 64;                   // rows of C per piece: its A block stays in the second cache
constexpr int64_t kPackedLimit = int64_t{1} << 20;  // floats of B packed at a time
constexpr int64_t kEnoughPieces = 4;                // below this, pieces are cut along the columns too

LOCKSTEP_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LOCKSTEP_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T>
const T* element(const GemmOperand& x, int64_t row, int64_t column) {
  const T* data = static_cast<const T*>(x.data);
  return x.transposed ? data + column * x.ld + row : data + row * x.ld + column;
}

// Columns [first, first + width) of B, all of k, as packed blocks of kDepth steps one after the other.
template <typename T>
void pack_b(const GemmArgs& g, int64_t first, int64_t width, float* packed) {
  const int64_t padded = round_up(width, kLanes);
  for_pieces((width + kColumnTile - 1) / kColumnTile, [&](int64_t panel) {
    const int64_t j = panel * kColumnTile;
    for (int64_t p = 0; p < g.k; p += kDepth) {
      const int64_t depth = smaller(kDepth, g.k - p);
      pack_panel(element<T>(g.b, p, first + j), g.b.ld, g.b.transposed, depth, smaller(kColumnTile, width - j),
                 packed + p * padded + j * depth);
    }
  });
}

// A transposed block is stored [k, m]: copy it into tiles of kRowTile rows, [k][row] each. A cache line's worth of rows at a
// time, so that each line is read once and few tiles are written at once.
template <typename T>
PanelA pack_a_transposed(const T* src, int64_t ld, int64_t m, int64_t k, float* dst) {
  constexpr int64_t kLine = kLanes > 16 ? kLanes : 16;
  for (int64_t first = 0; first < m; first += kLine) {
    const int64_t rows = smaller(kLine, m - first);
    for (int64_t p = 0; p < k; ++p) {
      __builtin_prefetch(src + (p + 16) * ld + first);
      for_vectors(rows, [&](int64_t i, int64_t lanes) {
        float values[kLanes];
        store(values, load_at(src + p * ld + first + i, lanes));
        for (int64_t t = 0; t < kLanes && t < lanes; t += kRowTile)
          memcpy(dst + (first + i + t) * k + p * kRowTile, values + t, sizeof(float) * kRowTile);
      });
    }
  }
  return {dst, kRowTile * k, 1, kRowTile};
}

PanelA block_of_a(const GemmOperand& a, int64_t row, int64_t m, int64_t p, int64_t k) {
  if (a.dtype == DType::f32 && !a.transposed) return rows_of(element<float>(a, row, p), a.ld);
  float* dst = scratch_of<float>(Scratch::packed_a, round_up(m, kLanes) * k);
  if (a.dtype == DType::f32) return pack_a_transposed(element<float>(a, row, p), a.ld, m, k, dst);
  const Bf16* src = element<Bf16>(a, row, p);
  if (a.transposed) return pack_a_transposed(src, a.ld, m, k, dst);
  for (int64_t i = 0; i < m; ++i)
    for_vectors(k, [&](int64_t s, int64_t lanes) { store_at(dst + i * k + s, load_at(src + i * a.ld + s, lanes), lanes); });
  return rows_of(dst, k);
}

// C[row.., column..] over all of k. `packed` holds the group of columns that starts at group_first.
void compute_piece(const GemmArgs& g, const float* packed, int64_t group_first, int64_t group_width, int64_t row, int64_t m, int64_t column,
                   int64_t n) {
  const bool direct = g.c_dtype == DType::f32;
  Output out{};
  if (direct)
    out = {static_cast<float*>(g.c) + row * g.ldc + column, g.ldc, g.accumulate, nullptr};
  else
    out = {scratch_of<float>(Scratch::tile, m * n), n, false, nullptr};
  const int64_t padded = round_up(group_width, kLanes);
  for (int64_t p = 0; p < g.k; p += kDepth) {
    const int64_t depth = smaller(kDepth, g.k - p);
    if (p > 0) out.add = true;
    if (g.bias && p + depth == g.k) out.bias = g.bias + column;
    micro_gemm(m, n, depth, block_of_a(g.a, row, m, p, depth), packed + p * padded + (column - group_first) * depth, out);
  }
  if (direct) return;
  Bf16* c = static_cast<Bf16*>(g.c) + row * g.ldc + column;
  for (int64_t i = 0; i < m; ++i)
    for_vectors(n, [&](int64_t j, int64_t lanes) { store_at(c + i * g.ldc + j, load_at(out.c + i * n + j, lanes), lanes); });
}

// An empty sum: C = bias, or 0.
void without_terms(const GemmArgs& g) {
  for (int64_t i = 0; i < g.m; ++i)
    for_vectors(g.n, [&](int64_t j, int64_t lanes) {
      Vf value = g.bias ? load_at(g.bias + j, lanes) : Vf{};
      if (g.c_dtype == DType::bf16) return store_at(static_cast<Bf16*>(g.c) + i * g.ldc + j, value, lanes);
      float* c = static_cast<float*>(g.c) + i * g.ldc + j;
      store_at(c, g.accumulate ? load_at(c, lanes) + value : value, lanes);
    });
}

}  // namespace

void gemm(const GemmArgs& g) {
  if (g.m <= 0 || g.n <= 0) return;
  if (g.k <= 0) return without_terms(g);
  const int64_t group = larger(kPackedLimit / g.k / kColumnTile, 1) * kColumnTile;
  float* packed = scratch_of<float>(Scratch::packed_b, packed_size(g.k, smaller(group, g.n)));
  const int64_t row_blocks = (g.m + kRowBlock - 1) / kRowBlock;
  for (int64_t first = 0; first < g.n; first += group) {
    const int64_t width = smaller(group, g.n - first);
    if (g.b.dtype == DType::f32)
      pack_b<float>(g, first, width, packed);
    else
      pack_b<Bf16>(g, first, width, packed);
    const int64_t panels = (width + kColumnTile - 1) / kColumnTile;
    const int64_t wanted = smaller(panels, (kEnoughPieces + row_blocks - 1) / row_blocks);
    const int64_t columns = (panels + wanted - 1) / wanted * kColumnTile;
    const int64_t column_blocks = (width + columns - 1) / columns;
    for_pieces(row_blocks * column_blocks, [&](int64_t piece) {
      const int64_t row = piece / column_blocks * kRowBlock;
      const int64_t j = piece % column_blocks * columns;
      compute_piece(g, packed, first, width, row, smaller(kRowBlock, g.m - row), first + j, smaller(columns, width - j));
    });
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
