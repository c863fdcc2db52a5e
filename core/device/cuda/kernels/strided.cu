// Copies, conversions and fills of any views. A copy without conversion moves words of up to 16
// bytes, whatever their dtype. A copy that swaps the dense dimension goes through tiles.
#include <cstring>
#include <limits>

#include "core/device/cuda/api.h"
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/walk.h"

namespace lockstep::cuda {
namespace {

template <int BYTES>
struct alignas(BYTES) Word {
  unsigned char bytes[BYTES];
};

// Calls f(Word<bytes>{}).
template <class F>
void with_word(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1: return f(Word<1>{});
    case 2: return f(Word<2>{});
    case 4: return f(Word<4>{});
    case 8: return f(Word<8>{});
    default: return f(Word<16>{});
  }
}

// Cuts the elements of `walk` into the widest words in which the rows of all `views` can be moved.
// Returns the bytes of a word.
int64_t cut_into_words(Walk& walk, std::initializer_list<const StridedView*> views) {
  const int64_t element = size_of((*views.begin())->dtype);
  int64_t all = kPackBytes | (walk.row * element);  // the lowest bit that is set is the word
  int v = 0;
  for (const StridedView* view : views) {
    if (walk.row_strides[v] != 1) return element;
    all |= reinterpret_cast<intptr_t>(view->data);
    for (int d = 0; d < walk.dims; ++d) all |= walk.strides[v][d] * element;
    ++v;
  }
  const int64_t word = all & -all;
  walk.row = walk.row * element / word;
  for (v = 0; v < static_cast<int>(views.size()); ++v)
    for (int d = 0; d < walk.dims; ++d) walk.strides[v][d] = walk.strides[v][d] * element / word;
  return word;
}

template <class W>
struct CopyWords {
  W* dst;
  const W* src;
  template <int N>
  __device__ void run(const int64_t (&at)[Walk::kViews]) const {
    dst[at[0]] = src[at[1]];
  }
};

template <class W>
struct FillWords {
  W* dst;
  W value;
  template <int N>
  __device__ void run(const int64_t (&at)[Walk::kViews]) const {
    dst[at[0]] = value;
  }
};

// ---- transposition ----

constexpr int kTile = 32, kTileThreads = 256;

// Many matrices. dst is dense along a matrix's columns, src along its rows.
struct Transposition {
  Walk matrices;
  int64_t rows, columns;
  int64_t dst_stride;    // from row to row
  int64_t src_stride;    // from column to column
  Divider down, across;  // tiles of a matrix
};

template <class W>
__global__ void transpose_kernel(Transposition t, int64_t tiles, W* dst, const W* src) {
  __shared__ W tile[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTile,
            first = static_cast<int>(threadIdx.x) / kTile;
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const int64_t line = t.across.divide(i, t.matrices.small);
    const int64_t matrix = t.down.divide(line, t.matrices.small);
    const int64_t row = (line - matrix * t.down.divisor()) * kTile;
    const int64_t column = (i - line * t.across.divisor()) * kTile;
    int64_t at[Walk::kViews];
    t.matrices.find_row(matrix, at);
    for (int y = first; y < kTile; y += kTileThreads / kTile)
      if (row + x < t.rows && column + y < t.columns)
        tile[y][x] = src[at[1] + row + x + (column + y) * t.src_stride];
    __syncthreads();
    for (int y = first; y < kTile; y += kTileThreads / kTile)
      if (row + y < t.rows && column + x < t.columns)
        dst[at[0] + (row + y) * t.dst_stride + column + x] = tile[x][y];
    __syncthreads();
  }
}

// The outer dimension along which src is dense, if dst is dense along the rows and both are long
// enough for tiles. Else -1.
int transposed_dimension(const Walk& walk) {
  constexpr int64_t kLeast = kTile / 2;
  if (walk.row_strides[0] != 1 || walk.row_strides[1] <= 1 || walk.row < kLeast) return -1;
  for (int d = 0; d < walk.dims; ++d)
    if (walk.strides[1][d] == 1 && walk.sizes[d].divisor() >= kLeast) return d;
  return -1;
}

void transpose(const Queue& queue, const Walk& walk, int dimension, const StridedView& dst,
               const StridedView& src) {
  Transposition t{walk,
                  walk.sizes[dimension].divisor(),
                  walk.row,
                  walk.strides[0][dimension],
                  walk.row_strides[1],
                  {},
                  {}};
  t.down = Divider((t.rows + kTile - 1) / kTile);
  t.across = Divider((t.columns + kTile - 1) / kTile);
  t.matrices.rows /= t.rows;
  --t.matrices.dims;
  for (int d = dimension; d < t.matrices.dims; ++d) {
    t.matrices.sizes[d] = walk.sizes[d + 1];
    for (int v = 0; v < 2; ++v) t.matrices.strides[v][d] = walk.strides[v][d + 1];
  }
  const int64_t tiles = t.matrices.rows * t.down.divisor() * t.across.divisor();
  const Grid grid{std::min<int64_t>(tiles, grid_for(tiles * kTileThreads).blocks), kTileThreads};
  with_word(size_of(dst.dtype), [&](auto word) {
    using W = decltype(word);
    launch("transpose", queue, grid, Threads::together, transpose_kernel<W>, t, tiles,
           static_cast<W*>(dst.data), static_cast<const W*>(src.data));
  });
}

// ---- conversion ----

// The value of an integer type that is nearest to x, without the fraction of a float. NaN gives 0.
// A device cannot refuse a value as the CPU's kernel does.
template <class To, class From>
__host__ __device__ __forceinline__ To nearest(From x) {
  constexpr To low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
  if constexpr (std::is_floating_point_v<From>) {
    constexpr From beyond =
        static_cast<From>(uint64_t{1} << (std::numeric_limits<To>::digits - 1)) * 2;
    if (x != x) return 0;
    return x < static_cast<From>(low) ? low : (x >= beyond ? high : static_cast<To>(x));
  } else if constexpr (sizeof(From) > sizeof(To)) {
    return x < From{low} ? low : (x > From{high} ? high : static_cast<To>(x));
  } else {
    return static_cast<To>(x);
  }
}

// Converts between types that compute (Compute<T>). A conversion to bool tests for non-zero.
template <class To, class From>
__host__ __device__ __forceinline__ To converted(From x) {
  if constexpr (std::is_same_v<To, bool>)
    return x != From{};
  else if constexpr (std::is_floating_point_v<To>)
    return static_cast<To>(x);
  else
    return nearest<To>(x);
}

template <class To, class From>
struct Convert {
  To* dst;
  const From* src;
  template <int N>
  __device__ void run(const int64_t (&at)[Walk::kViews]) const {
    const Pack<Compute<From>, N> x = load<N>(src + at[1]);
    Pack<Compute<To>, N> y;
    for (int j = 0; j < N; ++j) y.at[j] = converted<Compute<To>>(x.at[j]);
    store<N>(dst + at[0], y);
  }
};

template <class To, class From>
void convert(const Queue& queue, const Walk& walk, To* dst, const From* src) {
  constexpr int N = std::min(kPack<To>, kPack<From>);
  const Convert<To, From> f{dst, src};
  if (walk.has_packs<N>(0, dst) && walk.has_packs<N>(1, src))
    for_views<N>("convert", queue, walk, f);
  else
    for_views<1>("convert", queue, walk, f);
}

}  // namespace

void copy(const Queue& queue, const StridedView& dst, const StridedView& src) {
  Walk walk = Walk::of({&dst, &src});
  if (walk.rows == 0) return;
  if (dst.dtype != src.dtype) {
    dispatch(dst.dtype, [&](auto to) {
      dispatch(src.dtype, [&](auto from) {
        if constexpr (!std::is_same_v<decltype(to), decltype(from)>)
          convert(queue, walk, static_cast<decltype(to)*>(dst.data),
                  static_cast<const decltype(from)*>(src.data));
      });
    });
    return;
  }
  if (walk.dims == 0 && walk.row_strides[0] == 1 && walk.row_strides[1] == 1)
    return copy_bytes(queue, dst.data, src.data, walk.row * size_of(dst.dtype));
  const int dimension = transposed_dimension(walk);
  if (dimension >= 0) return transpose(queue, walk, dimension, dst, src);
  with_word(cut_into_words(walk, {&dst, &src}), [&](auto word) {
    using W = decltype(word);
    for_views<1>("copy", queue, walk,
                 CopyWords<W>{static_cast<W*>(dst.data), static_cast<const W*>(src.data)});
  });
}

void fill(const Queue& queue, const StridedView& dst, double value) {
  Walk walk = Walk::of({&dst});
  if (walk.rows == 0) return;
  const int64_t element = size_of(dst.dtype);
  unsigned char pattern[kPackBytes];
  dispatch(dst.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T filler = static_cast<T>(converted<Compute<T>>(value));
    for (size_t i = 0; i < kPackBytes; i += sizeof(T)) std::memcpy(pattern + i, &filler, sizeof(T));
  });
  const bool one_byte = std::count(pattern, pattern + kPackBytes, pattern[0]) == kPackBytes;
  if (one_byte && walk.dims == 0 && walk.row_strides[0] == 1)
    return check_cuda(api().fill_bytes(dst.data, pattern[0],
                                       static_cast<size_t>(walk.row * element), stream_of(queue)),
                      "fill");
  with_word(cut_into_words(walk, {&dst}), [&](auto word) {
    std::memcpy(&word, pattern, sizeof(word));
    for_views<1>("fill", queue, walk,
                 FillWords<decltype(word)>{static_cast<decltype(word)*>(dst.data), word});
  });
}

void copy_bytes(const Queue& queue, void* dst, const void* src, int64_t bytes) {
  if (bytes == 0) return;
  check_cuda(api().copy(dst, src, static_cast<size_t>(bytes), stream_of(queue)), "copy");
}

}  // namespace lockstep::cuda
