// Products of tiles, for attention: 64 queries by 64 keys, by a block of 256 threads, in f32.
//
// The thread of row y and column x (of 16 × 16) holds a Fragment of 4 × 4 numbers:
//   of scores [queries, keys]:  rows 4y + i, columns x + 16j
//   of a result [rows, 64]:     rows 4y + i, columns 4x + j
#pragma once

#include "core/device/cuda/kernels/rows.h"

namespace lockstep::cuda {

inline constexpr int kTile = 64;  // queries or keys of a tile, and columns of a result
inline constexpr int kTileThreads = 256;
inline constexpr int kTileSide = 16;  // threads side by side
inline constexpr int kSlice = 32;     // of a head's size, for the products that give scores
// Rows in shared memory are longer than their contents, so that threads read different banks.
inline constexpr int kSliceRow = kSlice + 4, kWeightRow = kTile + 4, kStagedRow = kTile + 8;

using Fragment = float[4][4];

// Rows of a tensor: up to kTile time steps of one head.
template <class T>
struct TileRows {
  const T* data;
  int64_t stride;
  int64_t count;  // rows that exist; the others read as 0
  int64_t size;   // of a row
};

struct TileMemory {
  alignas(16) float weights[kTile * kWeightRow];
  // Two tiles' slices [kTile, kSlice], or kTile columns of one tile.
  alignas(16) float staged[2 * kTile * kSliceRow];
};
static_assert(2 * kSliceRow == kStagedRow);

__device__ __forceinline__ int tile_y() { return static_cast<int>(threadIdx.x) / kTileSide; }
__device__ __forceinline__ int tile_x() { return static_cast<int>(threadIdx.x) % kTileSide; }

__device__ __forceinline__ void clear(Fragment& fragment) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) fragment[i][j] = 0.0f;
}

// Copies columns [first, first + WIDTH) of a tile into shared memory, `row` numbers from row to
// row.
template <int WIDTH, class T>
__device__ __forceinline__ void stage(const TileRows<T>& tile, int64_t first, float* to, int row) {
  constexpr int kPacks = WIDTH / 4;
#pragma unroll
  for (int step = 0; step < kTile * kPacks / kTileThreads; ++step) {
    const int i = step * kTileThreads + static_cast<int>(threadIdx.x);
    const int r = i / kPacks, column = i % kPacks * 4;
    const int64_t at = first + column;
    const int64_t count = r < tile.count ? tile.size - at : 0;
    store<4>(to + r * row + column, load_some<4>(tile.data + r * tile.stride + at, count));
  }
}

// scores = a · bᵀ. All threads of the block call; `staged` is free before and after.
template <class T>
__device__ __forceinline__ void multiply_rows(const TileRows<T>& a, const TileRows<T>& b,
                                              float* staged, Fragment& scores) {
  clear(scores);
  float *of_a = staged, *of_b = staged + kTile * kSliceRow;
  for (int64_t first = 0; first < a.size; first += kSlice) {
    stage<kSlice>(a, first, of_a, kSliceRow);
    stage<kSlice>(b, first, of_b, kSliceRow);
    __syncthreads();
#pragma unroll 2
    for (int k = 0; k < kSlice; k += 4) {
      Pack<float, 4> x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = load<4>(of_a + (4 * tile_y() + i) * kSliceRow + k);
        y[i] = load<4>(of_b + (tile_x() + kTileSide * i) * kSliceRow + k);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) scores[i][j] = fmaf(x[i].at[e], y[j].at[e], scores[i][j]);
    }
    __syncthreads();
  }
}

// Puts a fragment of scores into `weights`, which all threads have read.
__device__ __forceinline__ void put_weights(const Fragment& fragment, float* weights) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      weights[(4 * tile_y() + i) * kWeightRow + tile_x() + kTileSide * j] = fragment[i][j];
}

// result[c] += weights · columns [c·kTile, (c+1)·kTile) of `rows`, or weightsᵀ · those if ACROSS:
// the result's rows are then keys. All threads of the block call; `staged` is free before and
// after, and `weights` after.
template <bool ACROSS, int CHUNKS, class T>
__device__ __forceinline__ void multiply_weights(TileMemory& memory, const TileRows<T>& rows,
                                                 Fragment (&result)[CHUNKS]) {
  const float* weights = memory.weights;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if (c * kTile >= rows.size) break;
    stage<kTile>(rows, c * kTile, memory.staged, kStagedRow);
    __syncthreads();
#pragma unroll 2
    for (int k = 0; k < kTile; k += 4) {
      Pack<float, 4> w[4], v[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        w[e] = load<4>(ACROSS ? weights + (k + e) * kWeightRow + 4 * tile_y()
                              : weights + (4 * tile_y() + e) * kWeightRow + k);
        v[e] = load<4>(memory.staged + (k + e) * kStagedRow + 4 * tile_x());
      }
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            result[c][i][j] = fmaf(ACROSS ? w[e].at[i] : w[i].at[e], v[e].at[j], result[c][i][j]);
    }
    __syncthreads();
  }
}

// Stores a result, each of its rows i times factor[i], as `count` rows of `size` numbers.
template <int CHUNKS, class T>
__device__ __forceinline__ void store_result(const Fragment (&result)[CHUNKS],
                                             const float (&factor)[4], T* data, int64_t stride,
                                             int64_t count, int64_t size) {
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = 4 * tile_y() + i, column = c * kTile + 4 * tile_x();
      if (row >= count || column >= size) continue;
      Pack<float, 4> v;
#pragma unroll
      for (int j = 0; j < 4; ++j) v.at[j] = result[c][i][j] * factor[i];
      store_some<4>(data + row * stride + column, size - column, v);
    }
}

}  // namespace lockstep::cuda
