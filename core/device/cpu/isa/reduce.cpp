#include "core/base/sum_tree.h"
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kBlock = 8192;      // elements of a row in one partial result
constexpr int64_t kRowsAtOnce = 512;  // rows of a column reduction in one partial result
constexpr int64_t kColumns = 256;     // columns in one piece of a column reduction

template <ReduceKind KIND>
LOCKSTEP_INLINE Vf combine(Vf a, Vf b) {
  if constexpr (KIND == ReduceKind::max) return b != b ? b : (a < b ? b : a);
  if constexpr (KIND == ReduceKind::min) return b != b ? b : (b < a ? b : a);
  return a + b;
}
template <ReduceKind KIND>
constexpr float identity() {
  return KIND == ReduceKind::max   ? -__builtin_inff()
         : KIND == ReduceKind::min ? __builtin_inff()
                                   : 0.0f;
}

template <ReduceKind KIND>
float combine_lanes(Vf v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i)
      lane[i] = combine<KIND>(splat(lane[i]), splat(lane[i + width]))[0];
  return lane[0];
}

// Reduces at most kBlock elements, in four chains of vectors.
template <ReduceKind KIND, typename T>
float reduce_block(int64_t n, const T* x) {
  Vf chain[4];
  for (Vf& c : chain) c = splat(identity<KIND>());
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int c = 0; c < 4; ++c) chain[c] = combine<KIND>(chain[c], load(x + i + c * kLanes));
  for (; i < n; i += kLanes)
    chain[0] =
        combine<KIND>(chain[0], load_at(x + i, n - i < kLanes ? n - i : kLanes, identity<KIND>()));
  return combine_lanes<KIND>(
      combine<KIND>(combine<KIND>(chain[0], chain[1]), combine<KIND>(chain[2], chain[3])));
}

template <typename T>
LOCKSTEP_INLINE T from_float(float value) {
  T out;
  store_some(&out, splat(value), 1);
  return out;
}

template <ReduceKind KIND>
LOCKSTEP_INLINE float finish(float value, int64_t n) {
  return KIND == ReduceKind::mean ? value / static_cast<float>(n) : value;
}

template <ReduceKind KIND, typename T>
void reduce_rows(int64_t rows, int64_t n, const T* x, T* y) {
  const int64_t blocks = n > 0 ? (n + kBlock - 1) / kBlock : 1;
  float* partial = scratch_of<float>(Scratch::partial, rows * blocks);
  for_ranges(rows * blocks, n < kBlock ? kElementwiseGrain / (n + 1) + 1 : 4,
             [&](int64_t begin, int64_t end) {
               for (int64_t i = begin; i < end; ++i) {
                 const int64_t first = i % blocks * kBlock;
                 partial[i] = reduce_block<KIND>(n - first < kBlock ? n - first : kBlock,
                                                 x + i / blocks * n + first);
               }
             });
  const auto two = [](float a, float b) { return combine<KIND>(splat(a), splat(b))[0]; };
  for (int64_t r = 0; r < rows; ++r)
    y[r] = from_float<T>(finish<KIND>(sum_tree::combine(partial + r * blocks, blocks, two), n));
}

// Reduces the middle axis, by whole vectors of the inner axis.
template <ReduceKind KIND, typename T>
void reduce_columns(int64_t outer, int64_t n, int64_t inner, const T* x, T* y) {
  const int64_t chunks = (inner + kColumns - 1) / kColumns;
  for_pieces(outer * chunks, [&](int64_t piece) {
    const int64_t o = piece / chunks;
    const int64_t first = piece % chunks * kColumns;
    const int64_t width = inner - first < kColumns ? inner - first : kColumns;
    for_vectors(width, [&](int64_t j, int64_t lanes) {
      const T* column = x + o * n * inner + first + j;
      Vf total = splat(identity<KIND>());
      for (int64_t block = 0; block < n; block += kRowsAtOnce) {
        const int64_t end = n - block < kRowsAtOnce ? n : block + kRowsAtOnce;
        Vf sum = splat(identity<KIND>());
        for (int64_t r = block; r < end; ++r)
          sum = combine<KIND>(sum, load_at(column + r * inner, lanes));
        total = combine<KIND>(total, sum);
      }
      if (KIND == ReduceKind::mean) total = total / splat(static_cast<float>(n));
      store_at(y + o * inner + first + j, total, lanes);
    });
  });
}

template <ReduceKind KIND, typename T>
void reduce_typed(int64_t outer, int64_t n, int64_t inner, const void* x, void* y) {
  if (inner == 1) return reduce_rows<KIND>(outer, n, static_cast<const T*>(x), static_cast<T*>(y));
  reduce_columns<KIND>(outer, n, inner, static_cast<const T*>(x), static_cast<T*>(y));
}

template <typename T>
void reduce_float(ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const void* x,
                  void* y) {
  switch (kind) {
    case ReduceKind::sum: return reduce_typed<ReduceKind::sum, T>(outer, n, inner, x, y);
    case ReduceKind::mean: return reduce_typed<ReduceKind::mean, T>(outer, n, inner, x, y);
    case ReduceKind::max: return reduce_typed<ReduceKind::max, T>(outer, n, inner, x, y);
    case ReduceKind::min: return reduce_typed<ReduceKind::min, T>(outer, n, inner, x, y);
  }
}

void reduce_integers(ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const int64_t* x,
                     int64_t* y) {
  for_ranges(outer * inner, kElementwiseGrain / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t* column = x + i / inner * n * inner + i % inner;
      int64_t value = kind == ReduceKind::max ? INT64_MIN : kind == ReduceKind::min ? INT64_MAX : 0;
      for (int64_t r = 0; r < n; ++r) {
        const int64_t next = column[r * inner];
        if (kind == ReduceKind::max)
          value = next > value ? next : value;
        else if (kind == ReduceKind::min)
          value = next < value ? next : value;
        else
          value += next;
      }
      y[i] = kind == ReduceKind::mean && n > 0 ? value / n : value;
    }
  });
}

template <typename T>
void argmax_rows(int64_t rows, int64_t n, const T* x, int64_t* y) {
  for_ranges(rows, kElementwiseGrain / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t best = 0;
      for (int64_t j = 1; j < n; ++j)
        if (to_float(x[r * n + j]) > to_float(x[r * n + best])) best = j;
      y[r] = best;
    }
  });
}

// Sums squares in double, because the square of a gradient may overflow f32.
template <typename T>
double square_sum_block(int64_t n, const T* x) {
  Vd chain[4] = {};
  const auto add = [&](int c, Vf v) {
    HalfVf half[2];
    memcpy(half, &v, sizeof v);
    const Vd low = __builtin_convertvector(half[0], Vd),
             high = __builtin_convertvector(half[1], Vd);
    chain[c] += low * low;
    chain[c + 1] += high * high;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    add(0, load(x + i));
    add(2, load(x + i + kLanes));
  }
  for (; i < n; i += kLanes) add(0, load_at(x + i, n - i < kLanes ? n - i : kLanes));
  return sum_lanes((chain[0] + chain[1]) + (chain[2] + chain[3]));
}

template <typename T>
void square_sums_typed(int64_t n, const T* x, double* sums) {
  constexpr int64_t kSize = kSquareBlock;
  for_ranges((n + kSize - 1) / kSize, 32, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      sums[b] = square_sum_block(n - b * kSize < kSize ? n - b * kSize : kSize, x + b * kSize);
  });
}

// Sums rows in fixed blocks, then adds the blocks' sums in order.
template <typename T>
void sum_rows_typed(int64_t rows, int64_t n, const T* dy, float* db, bool accumulate) {
  constexpr int kWide = 4;  // vectors side by side, so that their chains of additions overlap
  constexpr int64_t kChunk = kWide * kLanes;
  for_pieces((n + kChunk - 1) / kChunk, [&](int64_t piece) {
    const int64_t first = piece * kChunk;
    const int64_t width = n - first < kChunk ? n - first : kChunk;
    Vf total[kWide] = {};
    for (int64_t block = 0; block < rows; block += kRowsAtOnce) {
      const int64_t end = rows - block < kRowsAtOnce ? rows : block + kRowsAtOnce;
      Vf sum[kWide] = {};
      for (int64_t r = block; r < end; ++r) {
        const T* row = dy + r * n + first;
        if (width == kChunk)
          for (int v = 0; v < kWide; ++v) sum[v] += load(row + v * kLanes);
        else
          for_vectors(
              width, [&](int64_t j, int64_t lanes) { sum[j / kLanes] += load_at(row + j, lanes); });
      }
      for (int v = 0; v < kWide; ++v) total[v] += sum[v];
    }
    for_vectors(width, [&](int64_t j, int64_t lanes) {
      float* out = db + first + j;
      store_at(out, accumulate ? load_at(out, lanes) + total[j / kLanes] : total[j / kLanes],
               lanes);
    });
  });
}

}  // namespace

void reduce(ReduceKind kind, DType dtype, int64_t outer, int64_t n, int64_t inner, const void* x,
            void* y) {
  if (outer <= 0 || inner <= 0) return;
  if (dtype == DType::f32) return reduce_float<float>(kind, outer, n, inner, x, y);
  if (dtype == DType::bf16) return reduce_float<Bf16>(kind, outer, n, inner, x, y);
  if (dtype != DType::i64) unsupported_dtype("reduce", dtype);
  reduce_integers(kind, outer, n, inner, static_cast<const int64_t*>(x), static_cast<int64_t*>(y));
}

void argmax(DType dtype, int64_t rows, int64_t n, const void* x, int64_t* y) {
  if (dtype == DType::f32) return argmax_rows(rows, n, static_cast<const float*>(x), y);
  if (dtype != DType::bf16) unsupported_dtype("argmax", dtype);
  argmax_rows(rows, n, static_cast<const Bf16*>(x), y);
}

void square_sums(DType dtype, int64_t n, const void* x, double* sums) {
  if (dtype == DType::f32) return square_sums_typed(n, static_cast<const float*>(x), sums);
  if (dtype != DType::bf16) unsupported_dtype("square_sums", dtype);
  square_sums_typed(n, static_cast<const Bf16*>(x), sums);
}

void sum_rows(DType dtype, int64_t rows, int64_t n, const void* dy, float* db, bool accumulate) {
  if (dtype == DType::f32)
    return sum_rows_typed(rows, n, static_cast<const float*>(dy), db, accumulate);
  if (dtype != DType::bf16) unsupported_dtype("sum_rows", dtype);
  sum_rows_typed(rows, n, static_cast<const Bf16*>(dy), db, accumulate);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
