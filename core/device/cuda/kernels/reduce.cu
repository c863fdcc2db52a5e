// Reductions. Long inputs are cut into pieces that depend on shapes alone. A second launch reduces
// the pieces' results.
#include <climits>

#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/columns.h"
#include "core/device/cuda/kernels/many.h"
#include "core/device/cuda/kernels/rows.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kRowPiece = 8192;      // elements of a row per partial result
constexpr int64_t kColumnPiece = 512;    // least number of rows of a column per partial result
constexpr int64_t kEnoughBlocks = 1024;  // a grid of this size is not cut further

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <ReduceKind KIND, class A>
struct Reducer {
  static __device__ A identity() {
    if constexpr (KIND == ReduceKind::sum) return A{};
    if constexpr (std::is_same_v<A, int64_t>)
      return KIND == ReduceKind::max ? INT64_MIN : INT64_MAX;
    else
      return KIND == ReduceKind::max ? -INFINITY : INFINITY;
  }
  __device__ A operator()(A x, A y) const {
    if constexpr (KIND == ReduceKind::sum) {
      if constexpr (std::is_same_v<A, int64_t>)  // wraps
        return static_cast<int64_t>(static_cast<uint64_t>(x) + static_cast<uint64_t>(y));
      else
        return x + y;
    }
    if (y != y) return y;  // NaN wins
    if constexpr (KIND == ReduceKind::max) return x < y ? y : x;
    return y < x ? y : x;
  }
};

// What a reduction divides its sum by: nothing, or a number of elements that may be 0.
struct Divisor {
  bool divides = false;
  int64_t n = 0;
  __device__ float of(float sum) const { return divides ? sum / static_cast<float>(n) : sum; }
  __device__ int64_t of(int64_t sum) const { return divides && n > 0 ? sum / n : sum; }
};

// y [rows, pieces]: each piece of a row of x [rows, n] in one number.
template <ReduceKind KIND, class T, class Out, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    reduce_rows_kernel(int64_t rows, int64_t n, int64_t pieces, int64_t piece, Divisor divisor,
                       const T* x, Out* y) {
  constexpr int N = kPack<T>;
  using A = Compute<T>;
  using Reduce = Reducer<KIND, A>;
  for_rows<TEAM>(rows * pieces, [&](int64_t item) {
    const int64_t first = item % pieces * piece;
    const T* in = x + item / pieces * n + first;
    A value = Reduce::identity();
    for_packs<TEAM, N>(n - first < piece ? n - first : piece, [&](int64_t i, int64_t count) {
      const auto v = load_some<N>(in + i, count, Reduce::identity());
#pragma unroll
      for (int j = 0; j < N; ++j) value = Reduce{}(value, v.at[j]);
    });
    value = team_combine<TEAM>(value, Reduce{});
    if (team_thread<TEAM>() == 0) y[item] = static_cast<Out>(divisor.of(value));
  });
}

template <ReduceKind KIND, class T, class Out>
void launch_rows(const Queue& queue, int64_t rows, int64_t n, int64_t pieces, Divisor divisor,
                 const T* x, Out* y) {
  const int64_t piece = pieces > 1 ? kRowPiece : n;
  with_team(piece, [&](auto team) {
    launch("reduce", queue, grid_of_rows<team>(rows * pieces), Threads::together,
           reduce_rows_kernel<KIND, T, Out, team>, rows, n, pieces, piece, divisor, x, y);
  });
}

template <ReduceKind KIND, class T>
void reduce_rows(const Queue& queue, int64_t rows, int64_t n, Divisor divisor, const T* x, T* y) {
  const int64_t pieces = n <= kRowPiece || rows >= kEnoughBlocks ? 1 : ceil_div(n, kRowPiece);
  if (pieces == 1) return launch_rows<KIND>(queue, rows, n, 1, divisor, x, y);
  using A = Compute<T>;
  const Workspace space(queue, static_cast<size_t>(rows * pieces) * sizeof(A));
  launch_rows<KIND>(queue, rows, n, pieces, Divisor{}, x, space.as<A>());
  launch_rows<KIND>(queue, rows, pieces, 1, divisor, static_cast<const A*>(space.as<A>()), y);
}

// x [outer, n, inner] → y [outer, pieces, inner]. A block reduces a piece of up to kRowThreads
// columns. If they are fewer, several threads share a column; their results are combined in order.
template <ReduceKind KIND, class T, class Out>
__global__ void __launch_bounds__(kRowThreads)
    reduce_columns_kernel(int64_t outer, int64_t n, int64_t inner, int64_t pieces, int64_t piece,
                          Divisor divisor, const T* x, Out* y) {
  using A = Compute<T>;
  using Reduce = Reducer<KIND, A>;
  __shared__ A of_thread[kRowThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int width = inner < kRowThreads ? static_cast<int>(inner) : kRowThreads;
  const int sharers = kRowThreads / width;
  const int64_t chunks = (inner + width - 1) / width;
  for (int64_t item = blockIdx.x; item < outer * pieces * chunks; item += gridDim.x) {
    const int64_t o = item / chunks / pieces, first = item / chunks % pieces * piece;
    const int64_t column = item % chunks * width + thread % width;
    const int64_t end = n - first < piece ? n : first + piece;
    const bool works = thread < sharers * width && column < inner;
    A value = Reduce::identity();
    if (works) {
      const T* in = x + o * n * inner + column;
#pragma unroll 4
      for (int64_t row = first + thread / width; row < end; row += sharers)
        value = Reduce{}(value, static_cast<A>(in[row * inner]));
    }
    __syncthreads();  // the last item's values have been read
    of_thread[thread] = value;
    __syncthreads();
    if (!works || thread >= width) continue;
    for (int s = 1; s < sharers; ++s) value = Reduce{}(value, of_thread[s * width + thread]);
    y[item / chunks * inner + column] = static_cast<Out>(divisor.of(value));
  }
}

template <ReduceKind KIND, class T, class Out>
void launch_columns(const Queue& queue, int64_t outer, int64_t n, int64_t inner, int64_t pieces,
                    Divisor divisor, const T* x, Out* y) {
  const int64_t blocks = outer * pieces * ceil_div(inner, kRowThreads);
  launch("reduce", queue, Grid{std::min(blocks, kMostBlocks), kRowThreads}, Threads::together,
         reduce_columns_kernel<KIND, T, Out>, outer, n, inner, pieces, ceil_div(n, pieces), divisor,
         x, y);
}

template <ReduceKind KIND, class T>
void reduce_columns(const Queue& queue, int64_t outer, int64_t n, int64_t inner, Divisor divisor,
                    const T* x, T* y) {
  const int64_t most =
      kEnoughBlocks / std::min(outer * ceil_div(inner, kRowThreads), kEnoughBlocks);
  const int64_t pieces = std::clamp(ceil_div(n, kColumnPiece), int64_t{1}, most);
  if (pieces == 1) return launch_columns<KIND>(queue, outer, n, inner, 1, divisor, x, y);
  using A = Compute<T>;
  const Workspace space(queue, static_cast<size_t>(outer * pieces * inner) * sizeof(A));
  launch_columns<KIND>(queue, outer, n, inner, pieces, Divisor{}, x, space.as<A>());
  launch_columns<KIND>(queue, outer, pieces, inner, 1, divisor,
                       static_cast<const A*>(space.as<A>()), y);
}

template <class T>
void reduce_typed(const Queue& queue, ReduceKind kind, int64_t outer, int64_t n, int64_t inner,
                  const void* x, void* y) {
  const auto run = [&]<ReduceKind KIND>() {
    const Divisor divisor{kind == ReduceKind::mean, n};
    const T* in = static_cast<const T*>(x);
    T* out = static_cast<T*>(y);
    if (inner == 1) return reduce_rows<KIND>(queue, outer, n, divisor, in, out);
    reduce_columns<KIND>(queue, outer, n, inner, divisor, in, out);
  };
  switch (kind) {
    case ReduceKind::sum:
    case ReduceKind::mean: return run.template operator()<ReduceKind::sum>();
    case ReduceKind::max: return run.template operator()<ReduceKind::max>();
    case ReduceKind::min: return run.template operator()<ReduceKind::min>();
  }
}

// A number and its index; INT64_MAX: no number yet.
struct Best {
  float value;
  int64_t index;
};
__device__ __forceinline__ Best shuffle_xor(Best best, int offset) {
  return {cuda::shuffle_xor(best.value, offset), cuda::shuffle_xor(best.index, offset)};
}
struct Better {
  __device__ Best operator()(Best x, Best y) const {
    return y.value > x.value || (y.value == x.value && y.index < x.index) ? y : x;
  }
};

// As on a CPU, nothing is larger than a NaN in the first place, and a NaN elsewhere is not larger
// than anything.
template <class T, int TEAM>
__global__ void __launch_bounds__(kTeamThreads<TEAM>)
    argmax_kernel(int64_t rows, int64_t n, const T* x, int64_t* y) {
  constexpr int N = kPack<T>;
  for_rows<TEAM>(rows, [&](int64_t row) {
    const T* in = x + row * n;
    Best best{-INFINITY, INT64_MAX};
    for_packs<TEAM, N>(n, [&](int64_t i, int64_t count) {
      const auto v = load_some<N>(in + i, count, NAN);
#pragma unroll
      for (int j = 0; j < N; ++j) best = Better{}(best, {v.at[j], i + j});
    });
    best = team_combine<TEAM>(best, Better{});
    if (team_thread<TEAM>() != 0) return;
    const bool first = n == 0 || static_cast<float>(in[0]) != static_cast<float>(in[0]);
    y[row] = first ? 0 : best.index;
  });
}

// The sum of the squares of the elements of a block, by a warp. In double, because the square of a
// gradient may overflow f32.
template <class T>
__device__ __forceinline__ void square_sum(const T* x, int64_t n, int64_t block, double* sums) {
  constexpr int N = kPack<T>;
  const int64_t first = block * kSquareBlock;
  double sum = 0.0;
  for_packs<kWarp, N>(n - first < kSquareBlock ? n - first : kSquareBlock,
                      [&](int64_t i, int64_t count) {
                        const auto v = load_some<N>(x + first + i, count);
#pragma unroll
                        for (int j = 0; j < N; ++j) {
                          const double value = static_cast<double>(v.at[j]);
                          sum += value * value;
                        }
                      });
  sum = warp_sum(sum);
  if (team_thread<kWarp>() == 0) sums[block] = sum;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    square_sums_kernel(int64_t n, int64_t blocks, const T* x, double* sums) {
  for_rows<kWarp>(blocks, [&](int64_t block) { square_sum(x, n, block, sums); });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) square_sums_many_kernel(SquareSumsManyArgs args) {
  for_rows<kWarp>(args.pieces, [&](int64_t piece) {
    const SquareSumsRow& row = row_of_piece(args.rows, args.count, piece);
    square_sum(static_cast<const T*>(row.x), row.n, piece - row.first_piece, row.sums);
  });
}

constexpr int kWarps = kRowThreads / kWarp;
constexpr int64_t kSumRows = 64;  // least number of rows per partial sum

// out [parts, n]: the sums of `part` rows each. A warp adds every kWarps-th row, in packs; then the
// warps' sums are added in order.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    sum_rows_kernel(int64_t rows, int64_t n, int64_t chunks, int64_t part, const T* dy, float* out,
                    bool accumulate) {
  constexpr int N = kPack<T>, kWidth = kWarp * N;
  __shared__ float of_warp[kWarps][kWidth];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t chunk = blockIdx.x % chunks * kWidth, first = blockIdx.x / chunks * part;
  const int64_t column = chunk + lane * N, end = rows - first < part ? rows : first + part;
  Pack<float, N> sum{};
  if (column < n) {
#pragma unroll 4
    for (int64_t row = first + warp; row < end; row += kWarps) {
      const auto v = load_some<N>(dy + row * n + column, n - column);
#pragma unroll
      for (int j = 0; j < N; ++j) sum.at[j] += v.at[j];
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) of_warp[warp][lane * N + j] = sum.at[j];
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= kWidth || chunk + mine >= n) return;
  float total = of_warp[0][mine];
  for (int w = 1; w < kWarps; ++w) total += of_warp[w][mine];
  float* to = out + blockIdx.x / chunks * n + chunk + mine;
  *to = accumulate ? *to + total : total;
}

template <class T>
void sum_rows_typed(const Queue& queue, int64_t rows, int64_t n, const T* dy, float* db,
                    bool accumulate) {
  if (n == 0) return;
  const int64_t chunks = ceil_div(n, kWarp * kPack<T>);
  const int64_t most = kEnoughBlocks / std::min(chunks, kEnoughBlocks);
  const int64_t part = std::max(kSumRows, ceil_div(rows, most));
  const int64_t parts = std::max(ceil_div(rows, part), int64_t{1});
  const auto run = [&](float* out, bool add) {
    launch("sum_rows", queue, Grid{parts * chunks, kRowThreads}, Threads::together,
           sum_rows_kernel<T>, rows, n, chunks, part, dy, out, add);
  };
  if (parts == 1) return run(db, accumulate);
  const Workspace space(queue, static_cast<size_t>(parts * n) * sizeof(float));
  run(space.as<float>(), false);
  add_partials("sum_rows", queue, parts, n, {space.as<float>(), db, accumulate});
}

}  // namespace

void reduce(const Queue& queue, ReduceKind kind, DType dtype, int64_t outer, int64_t n,
            int64_t inner, const void* x, void* y) {
  if (outer <= 0 || inner <= 0) return;
  if (dtype == DType::i64) return reduce_typed<int64_t>(queue, kind, outer, n, inner, x, y);
  dispatch_float("reduce", dtype, [&](auto zero) {
    reduce_typed<decltype(zero)>(queue, kind, outer, n, inner, x, y);
  });
}

void argmax(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x, int64_t* y) {
  dispatch_float("argmax", dtype, [&](auto zero) {
    using T = decltype(zero);
    with_team(n, [&](auto team) {
      launch("argmax", queue, grid_of_rows<team>(rows), Threads::together, argmax_kernel<T, team>,
             rows, n, static_cast<const T*>(x), y);
    });
  });
}

void square_sums(const Queue& queue, DType dtype, int64_t n, const void* x, double* sums) {
  dispatch_float("square_sums", dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t blocks = ceil_div(n, kSquareBlock);
    launch("square_sums", queue, grid_of_rows<kWarp>(blocks), Threads::together,
           square_sums_kernel<T>, n, blocks, static_cast<const T*>(x), sums);
  });
}

void square_sums_many(const Queue& queue, const SquareSumsManyArgs& args) {
  dispatch_float("square_sums_many", args.dtype, [&](auto zero) {
    launch("square_sums_many", queue, grid_of_rows<kWarp>(args.pieces), Threads::together,
           square_sums_many_kernel<decltype(zero)>, args);
  });
}

void sum_rows(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* dy, float* db,
              bool accumulate) {
  dispatch_float("sum_rows", dtype, [&](auto zero) {
    sum_rows_typed(queue, rows, n, static_cast<const decltype(zero)*>(dy), db, accumulate);
  });
}

}  // namespace lockstep::cuda
