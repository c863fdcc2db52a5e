// Rows of a table by their ids. The backward pass sorts the rows' ids, so that the rows of one id
// stand side by side in row order: a stable sort, by merging.
#include "core/device/cuda/api.h"
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/rows.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    embedding_kernel(int64_t rows, int64_t n, int64_t vocab, const float* table, const int32_t* ids,
                     T* y) {
  constexpr int N = kPack<T>;
  for_rows<kWarp>(rows, [&](int64_t row) {
    const int64_t id = ids[row];
    const bool known = id >= 0 && id < vocab;
    for_packs<kWarp, N>(n, [&](int64_t i, int64_t count) {
      Pack<float, N> v;
#pragma unroll
      for (int j = 0; j < N; ++j) v.at[j] = NAN;
      if (known) v = load_some<N>(table + id * n + i, count);
      store_some<N>(y + row * n + i, count, v);
    });
  });
}

// A row and its id in one number, which orders rows by id, then by row. All keys differ.
using Key = uint64_t;
constexpr uint32_t kNoId = 0xffffffffu;  // sorts behind all ids
constexpr int64_t kMostRows = 0xffffffff;

__device__ __forceinline__ uint32_t id_of(Key key) { return static_cast<uint32_t>(key >> 32); }
__device__ __forceinline__ uint32_t row_of(Key key) { return static_cast<uint32_t>(key); }
__device__ __forceinline__ Key key_of(const int32_t* ids, int64_t row, int64_t rows,
                                      int64_t vocab) {
  if (row >= rows) return ~Key{0};
  const int32_t id = ids[row];
  return Key{id >= 0 && id < vocab ? static_cast<uint32_t>(id) : kNoId} << 32 |
         static_cast<uint32_t>(row);
}

constexpr int kSortThreads = 512;
constexpr int kTile = 2 * kSortThreads;  // keys that a block sorts

// Sorts each tile of kTile keys by a bitonic network.
__global__ void __launch_bounds__(kSortThreads)
    sort_tiles_kernel(int64_t rows, int64_t vocab, const int32_t* ids, Key* keys) {
  __shared__ Key tile[kTile];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first = int64_t{blockIdx.x} * kTile;
  for (int i = thread; i < kTile; i += kSortThreads) tile[i] = key_of(ids, first + i, rows, vocab);
  for (int size = 2; size <= kTile; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      const int low = thread / distance * 2 * distance + thread % distance, high = low + distance;
      const bool ascending = (low & size) == 0;
      const Key a = tile[low], b = tile[high];
      if ((a > b) == ascending) {
        tile[low] = b;
        tile[high] = a;
      }
    }
  __syncthreads();
  for (int i = thread; i < kTile && first + i < rows; i += kSortThreads) keys[first + i] = tile[i];
}

// Merges pairs of neighbouring sorted runs of `run` keys. A key's place among both is its place in
// its own run plus the number of smaller keys in the other.
__global__ void merge_runs_kernel(int64_t rows, int64_t run, const Key* from, Key* to) {
  for (int64_t i = thread_number(); i < rows; i += thread_count()) {
    const int64_t pair = i / (2 * run) * (2 * run), place = i - pair;
    const int64_t other = place < run ? pair + run : pair;  // where the other run begins
    const int64_t size = other >= rows ? 0 : (rows - other < run ? rows - other : run);
    const Key key = from[i];
    int64_t low = 0, high = size;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (from[other + middle] < key)
        low = middle + 1;
      else
        high = middle;
    }
    to[pair + place % run + low] = key;
  }
}

// The keys of all rows, sorted; in one half of `space` [2, rows].
const Key* sorted_keys(const Queue& queue, int64_t rows, int64_t vocab, const int32_t* ids,
                       Key* space) {
  Key *from = space, *to = space + rows;
  launch("embedding_backward", queue, Grid{(rows + kTile - 1) / kTile, kSortThreads},
         Threads::together, sort_tiles_kernel, rows, vocab, ids, from);
  for (int64_t run = kTile; run < rows; run *= 2) {
    launch("embedding_backward", queue, grid_for(rows), Threads::independent, merge_runs_kernel,
           rows, run, from, to);
    std::swap(from, to);
  }
  return from;
}

// A warp adds the rows of one id, for kWarp packs of columns. It begins at the id's first key; at
// other keys there is nothing to do.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    add_rows_kernel(int64_t rows, int64_t n, int64_t chunks, const Key* keys, const T* dy,
                    float* dtable, bool accumulate) {
  constexpr int N = kPack<T>;
  const int lane = team_thread<kWarp>();
  for_rows<kWarp>(rows * chunks, [&](int64_t item) {
    const int64_t first = item / chunks, column = (item % chunks * kWarp + lane) * N;
    const uint32_t id = id_of(keys[first]);
    if (id == kNoId || (first > 0 && id_of(keys[first - 1]) == id)) return;
    float* out = dtable + id * n + column;
    Pack<float, N> sum{};
    if (accumulate && column < n) sum = load_some<N>(out, n - column);
    for (int64_t i = first;; i += kWarp) {
      const Key mine = i + lane < rows ? keys[i + lane] : ~Key{0};
      const int count = warp_sum(id_of(mine) == id ? 1 : 0);
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const int64_t row = __shfl_sync(kFullWarp, row_of(mine), k);
        if (column >= n) continue;
        const auto v = load_some<N>(dy + row * n + column, n - column);
#pragma unroll
        for (int j = 0; j < N; ++j) sum.at[j] += v.at[j];
      }
      if (count < kWarp) break;
    }
    if (column < n) store_some<N>(out, n - column, sum);
  });
}

}  // namespace

void embedding(const Queue& queue, DType dtype, int64_t rows, int64_t n, int64_t vocab,
               const float* table, const int32_t* ids, void* y) {
  dispatch_float("embedding", dtype, [&](auto zero) {
    using T = decltype(zero);
    launch("embedding", queue, grid_of_rows<kWarp>(rows), Threads::independent, embedding_kernel<T>,
           rows, n, vocab, table, ids, static_cast<T*>(y));
  });
}

void embedding_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, int64_t vocab,
                        const int32_t* ids, const void* dy, float* dtable, bool accumulate) {
  dispatch_float("embedding_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    check(rows <= kMostRows, "[embedding_backward] expected at most ", kMostRows, " rows, got ",
          rows);
    if (n == 0 || vocab == 0) return;
    if (!accumulate)
      check_cuda(api().fill_bytes(dtable, 0, static_cast<size_t>(vocab * n) * sizeof(float),
                                  stream_of(queue)),
                 "embedding_backward");
    if (rows == 0) return;
    const Workspace space(queue, static_cast<size_t>(2 * rows) * sizeof(Key));
    const Key* keys = sorted_keys(queue, rows, vocab, ids, space.as<Key>());
    const int64_t chunks = (n + kWarp * kPack<T> - 1) / (kWarp * kPack<T>);
    launch("embedding_backward", queue, grid_of_rows<kWarp>(rows * chunks), Threads::together,
           add_rows_kernel<T>, rows, n, chunks, keys, static_cast<const T*>(dy), dtable,
           accumulate);
  });
}

}  // namespace lockstep::cuda
