#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/packing.h"
#include "core/device/cpu/pieces.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

// Rows of C in a piece. Many rows mean that B is seldom read from the outer caches. Few rows keep
// the A block in the second cache and make enough pieces for several threads.
constexpr int64_t kMinRows = 64, kMaxRows = 256, kRowPieces = 8;
// If there are fewer pieces, they are cut along the columns, too. Each one then packs A again.
constexpr int64_t kEnoughPieces = 4;
constexpr int64_t kPackedLimit = int64_t{1} << 20;  // elements of B packed at a time

LOCKSTEP_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LOCKSTEP_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T>
const T* element(const GemmOperand& x, int64_t row, int64_t column) {
  const T* data = static_cast<const T*>(x.data);
  return x.transposed ? data + column * x.ld + row : data + row * x.ld + column;
}

// A product of matrices with elements T that computes in steps of S.
template <typename T, typename S>
class Product {
 public:
  explicit Product(const GemmArgs& g) : g_(g) {}

  void run() {
    const int64_t group = larger(kPackedLimit / steps<S>(g_.k) / kColumnTile, 1) * kColumnTile;
    packed_ = scratch_of<Packed>(Scratch::packed_b, packed_size<S>(g_.k, smaller(group, g_.n)));
    const int64_t rows = smaller(larger(round_up(g_.m / kRowPieces, kRowTile), kMinRows), kMaxRows);
    const int64_t row_blocks = (g_.m + rows - 1) / rows;
    for (group_first_ = 0; group_first_ < g_.n; group_first_ += group) {
      group_width_ = smaller(group, g_.n - group_first_);
      pack_b();
      const int64_t panels = (group_width_ + kColumnTile - 1) / kColumnTile;
      const int64_t wanted = smaller(panels, (kEnoughPieces + row_blocks - 1) / row_blocks);
      const int64_t columns = (panels + wanted - 1) / wanted * kColumnTile;
      const int64_t column_blocks = (group_width_ + columns - 1) / columns;
      for_pieces(row_blocks * column_blocks, [&](int64_t piece) {
        const int64_t row = piece / column_blocks * rows, j = piece % column_blocks * columns;
        compute_piece(row, smaller(rows, g_.m - row), group_first_ + j,
                      smaller(columns, group_width_ - j));
      });
    }
  }

 private:
  using Packed = typename S::Packed;
  static constexpr int64_t kBlock = kDepth * S::kPerStep;  // elements of a block of k

  // Packs the group's columns over all of k, as consecutive blocks of kDepth steps.
  void pack_b() const {
    const int64_t padded = round_up(group_width_, kLanes);
    for_pieces((group_width_ + kColumnTile - 1) / kColumnTile, [&](int64_t panel) {
      const int64_t j = panel * kColumnTile;
      for (int64_t p = 0; p < g_.k; p += kBlock) {
        const int64_t depth = smaller(kBlock, g_.k - p);
        pack_panel<S>(element<T>(g_.b, p, group_first_ + j), g_.b.ld, g_.b.transposed, depth,
                      smaller(kColumnTile, group_width_ - j),
                      packed_ + p / S::kPerStep * padded + j * steps<S>(depth));
      }
    });
  }

  // Returns A's rows over one block of k: in place if steps can be read there, else packed.
  PanelA block_of_a(int64_t row, int64_t m, int64_t p, int64_t k) const {
    const T* src = element<T>(g_.a, row, p);
    if (g_.a.transposed) {
      Packed* dst = scratch_of<Packed>(Scratch::packed_a, tiles_size<S>(m, k));
      return pack_a_transposed<S>(src, g_.a.ld, m, k, dst);
    }
    if constexpr (sizeof(T) * S::kPerStep == 4)
      if (k % S::kPerStep == 0) return rows_of(src, g_.a.ld);
    // Elements that a step reads: unchanged or widened, padded with zeros to whole steps.
    using Element = typename S::Element;
    const int64_t width = steps<S>(k) * S::kPerStep;
    Element* dst = scratch_of<Element>(Scratch::packed_a, round_up(m, kLanes) * width);
    for (int64_t i = 0; i < m; ++i) {
      for_vectors(k, [&](int64_t s, int64_t lanes) {
        store_at(dst + i * width + s, load_at(src + i * g_.a.ld + s, lanes), lanes);
      });
      if (k < width) dst[i * width + k] = Element{};
    }
    return rows_of(dst, width);
  }

  // Computes C[row.., column..] over all of k.
  void compute_piece(int64_t row, int64_t m, int64_t column, int64_t n) const {
    Output out{nullptr, 0, false, nullptr};
    Bf16* rounded = nullptr;
    if (g_.c_dtype == DType::f32)
      out = {static_cast<float*>(g_.c) + row * g_.ldc + column, g_.ldc, g_.accumulate, nullptr};
    else
      rounded = static_cast<Bf16*>(g_.c) + row * g_.ldc + column;
    if (rounded && g_.k > kBlock)
      out = {scratch_of<float>(Scratch::tile, m * n), n, false, nullptr};
    const int64_t padded = round_up(group_width_, kLanes);
    for (int64_t p = 0; p < g_.k; p += kBlock) {
      const int64_t depth = smaller(kBlock, g_.k - p);
      if (p > 0) out.add = true;
      if (p + depth == g_.k) {
        out.bias = g_.bias ? g_.bias + column : nullptr;
        out.rounded = rounded;
        out.ld_rounded = g_.ldc;
      }
      micro_gemm<S>(m, n, depth, block_of_a(row, m, p, depth),
                    packed_ + p / S::kPerStep * padded + (column - group_first_) * steps<S>(depth),
                    out);
    }
  }

  const GemmArgs& g_;
  Packed* packed_ = nullptr;
  int64_t group_first_ = 0, group_width_ = 0;
};

// A product over k = 0: C = bias, or 0.
void without_terms(const GemmArgs& g) {
  for (int64_t i = 0; i < g.m; ++i)
    for_vectors(g.n, [&](int64_t j, int64_t lanes) {
      Vf value = g.bias ? load_at(g.bias + j, lanes) : Vf{};
      if (g.c_dtype == DType::bf16)
        return store_at(static_cast<Bf16*>(g.c) + i * g.ldc + j, value, lanes);
      float* c = static_cast<float*>(g.c) + i * g.ldc + j;
      store_at(c, g.accumulate ? load_at(c, lanes) + value : value, lanes);
    });
}

}  // namespace

void gemm(const GemmArgs& g) {
  if (g.m <= 0 || g.n <= 0) return;
  if (g.k <= 0) return without_terms(g);
  if (g.a.dtype == DType::f32)
    Product<float, Singles>(g).run();
  else
    Product<Bf16, StepsOf<Bf16>>(g).run();
}

void linear_gradients(const LinearGradientsArgs& a) {
  sum_rows(a.dtype, a.rows, a.n, a.dy, a.db, a.accumulate_db);
  GemmArgs product{};
  product.m = a.n, product.n = a.m, product.k = a.rows;
  product.a = {a.dy, a.dtype, a.n, true};
  product.b = {a.x, a.dtype, a.m, false};
  product.c = a.dw, product.c_dtype = DType::f32, product.ldc = a.m;
  product.accumulate = a.accumulate_dw;
  gemm(product);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
