// Self-attention by tiles of queries and keys. Scores exist only for one pair of tiles at a time.
// The forward pass keeps a running maximum and sum for each row. The backward pass recomputes the
// weights from the rows' log-sum-exp: once for the gradients of keys and values, whose tiles go
// through all queries of all heads of their group in order, and once for the gradient of the
// queries.
#include "core/device/cuda/attention_library.h"
#include "core/device/cuda/kernels/attention_tiles.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kMostHeadDim = 256;
// Blocks that a multiprocessor's registers should serve at once.
template <int CHUNKS>
constexpr int kBlocksAtOnce = CHUNKS == 1 ? 2 : 1;

// The arrays of one call. Gradients have the strides of q, k and v.
template <class T>
struct Attention {
  int64_t batch, time, heads, kv_heads, head_dim;
  int64_t stride_batch, stride_time, stride_head;
  float scale;
  bool causal;
  const T *q, *k, *v;
  const T* dout;
  const float *lse, *delta;  // [B, H, T]

  __device__ int64_t tiles() const { return (time + kTile - 1) / kTile; }
  __device__ int64_t group() const { return heads / kv_heads; }
  // Heads count through all samples: those of queries and of `out`, and those of keys and values.
  __device__ int64_t query_offset(int64_t head) const {
    return head / heads * stride_batch + head % heads * stride_head;
  }
  __device__ int64_t key_offset(int64_t head) const {
    return head / kv_heads * stride_batch + head % kv_heads * stride_head;
  }
  __device__ int64_t dense_offset(int64_t head) const {
    return (head / heads * time * heads + head % heads) * head_dim;
  }
  __device__ int64_t dense_stride() const { return heads * head_dim; }
  __device__ int64_t rows_of(int64_t tile) const {
    return time - tile * kTile < kTile ? time - tile * kTile : kTile;
  }
  __device__ TileRows<T> query_tile(int64_t head, int64_t tile) const {
    return {q + query_offset(head) + tile * kTile * stride_time, stride_time, rows_of(tile),
            head_dim};
  }
  // Of k or v.
  __device__ TileRows<T> key_tile(const T* x, int64_t head, int64_t tile) const {
    return {x + key_offset(head) + tile * kTile * stride_time, stride_time, rows_of(tile),
            head_dim};
  }
  __device__ TileRows<T> dense_tile_of(const T* x, int64_t head, int64_t tile) const {
    return {x + dense_offset(head) + tile * kTile * dense_stride(), dense_stride(), rows_of(tile),
            head_dim};
  }
  // Whether the query of row i sees the key of column j of this thread's fragment of scores.
  __device__ bool sees(int64_t query_tile, int64_t key_tile, int i, int j) const {
    const int64_t query = query_tile * kTile + 4 * tile_y() + i;
    const int64_t key = key_tile * kTile + tile_x() + kTileSide * j;
    return key < time && (!causal || key <= query);
  }
};

// Calls f(head, tile) for each tile of `heads` heads, on the blocks of the grid. The tiles of a
// causal pass differ in work: the largest begin first.
template <class T, class F>
__device__ __forceinline__ void for_tiles(const Attention<T>& a, int64_t heads, bool last_first,
                                          const F& f) {
  const int64_t tiles = a.tiles();
  for (int64_t item = blockIdx.x; item < heads * tiles; item += gridDim.x)
    f(item % heads, last_first ? tiles - 1 - item / heads : item / heads);
}

// What a thread knows of its four rows while it goes through the keys. Each thread of a row adds up
// its own columns.
struct RunningSoftmax {
  float top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float sum[4] = {};

  // Turns a row of scores into weights exp(score − maximum). Returns the factor for what was added
  // up so far.
  __device__ float step(int i, float (&row)[4]) {
    const float largest = fmaxf(fmaxf(row[0], row[1]), fmaxf(row[2], row[3]));
    const float next = fmaxf(top[i], warp_max<kTileSide>(largest));
    const float shrink = top[i] == -INFINITY ? 0.0f : expf(top[i] - next);
    sum[i] *= shrink;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      row[j] = expf(row[j] - next);
      sum[i] += row[j];
    }
    top[i] = next;
    return shrink;
  }
};

template <int CHUNKS, class T>
__device__ __forceinline__ void forward_tile(const Attention<T>& a, int64_t head, int64_t tile,
                                             TileMemory& memory, T* out, float* lse) {
  Fragment result[CHUNKS] = {};
  RunningSoftmax softmax;
  const auto q = a.query_tile(head, tile);
  const int64_t kv_head = head / a.group();
  const int64_t key_tiles = a.causal ? tile + 1 : a.tiles();
  for (int64_t key = 0; key < key_tiles; ++key) {
    Fragment weights;
    multiply_rows(q, a.key_tile(a.k, kv_head, key), memory.staged, weights);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        weights[i][j] = a.sees(tile, key, i, j) ? weights[i][j] * a.scale : -INFINITY;
      const float shrink = softmax.step(i, weights[i]);
#pragma unroll
      for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j) result[c][i][j] *= shrink;
    }
    put_weights(weights, memory.weights);
    multiply_weights<false>(memory, a.key_tile(a.v, kv_head, key), result);
  }
  float inverse[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float sum = warp_sum<kTileSide>(softmax.sum[i]);
    inverse[i] = 1.0f / sum;
    const int64_t row = 4 * tile_y() + i;
    if (tile_x() == 0 && row < q.count)
      lse[head * a.time + tile * kTile + row] = softmax.top[i] + logf(sum);
  }
  store_result(result, inverse, out + a.dense_offset(head) + tile * kTile * a.dense_stride(),
               a.dense_stride(), q.count, a.head_dim);
}

template <int CHUNKS, class T>
__global__ void __launch_bounds__(kTileThreads, kBlocksAtOnce<CHUNKS>)
    attention_kernel(Attention<T> a, T* out, float* lse) {
  __shared__ TileMemory memory;
  for_tiles(a, a.batch * a.heads, a.causal, [&](int64_t head, int64_t tile) {
    forward_tile<CHUNKS>(a, head, tile, memory, out, lse);
  });
}

// delta [B, H, T] = Σ out·dout over each row [B, T, H, D].
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    delta_kernel(Attention<T> a, const T* out, float* delta) {
  constexpr int N = kPack<T>;
  for_rows<kWarp>(a.batch * a.time * a.heads, [&](int64_t row) {
    float dot = 0.0f;
    for_packs<kWarp, N>(a.head_dim, [&](int64_t i, int64_t count) {
      const auto x = load_some<N>(out + row * a.head_dim + i, count);
      const auto y = load_some<N>(a.dout + row * a.head_dim + i, count);
#pragma unroll
      for (int j = 0; j < N; ++j) dot += x.at[j] * y.at[j];
    });
    dot = warp_sum(dot);
    const int64_t head = row % a.heads, step = row / a.heads % a.time;
    const int64_t sample = row / a.heads / a.time;
    if (team_thread<kWarp>() == 0) delta[(sample * a.heads + head) * a.time + step] = dot;
  });
}

// weights = exp(scale·score − lse), and their gradients through the softmax:
// dscores = weights·(dout·vᵀ − delta)·scale.
template <class T>
__device__ __forceinline__ void score_gradients(const Attention<T>& a, int64_t head, int64_t query,
                                                int64_t key, float* staged, Fragment& weights,
                                                Fragment& dscores) {
  const int64_t kv_head = head / a.group();
  multiply_rows(a.query_tile(head, query), a.key_tile(a.k, kv_head, key), staged, weights);
  multiply_rows(a.dense_tile_of(a.dout, head, query), a.key_tile(a.v, kv_head, key), staged,
                dscores);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t step = query * kTile + 4 * tile_y() + i;
    const bool exists = step < a.time;
    const float lse = exists ? a.lse[head * a.time + step] : 0.0f;
    const float delta = exists ? a.delta[head * a.time + step] : 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool counts = exists && a.sees(query, key, i, j);
      weights[i][j] = counts ? expf(weights[i][j] * a.scale - lse) : 0.0f;
      dscores[i][j] = counts ? weights[i][j] * (dscores[i][j] - delta) * a.scale : 0.0f;
    }
  }
}

template <int CHUNKS, class T>
__global__ void __launch_bounds__(kTileThreads, kBlocksAtOnce<CHUNKS>)
    key_gradients_kernel(Attention<T> a, T* dk, T* dv) {
  __shared__ TileMemory memory;
  const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  for_tiles(a, a.batch * a.kv_heads, false, [&](int64_t kv_head, int64_t tile) {
    Fragment of_k[CHUNKS] = {}, of_v[CHUNKS] = {};
    for (int64_t member = 0; member < a.group(); ++member) {
      const int64_t head = kv_head * a.group() + member;
      for (int64_t query = a.causal ? tile : 0; query < a.tiles(); ++query) {
        Fragment weights, dscores;
        score_gradients(a, head, query, tile, memory.staged, weights, dscores);
        put_weights(weights, memory.weights);
        multiply_weights<true>(memory, a.dense_tile_of(a.dout, head, query), of_v);
        put_weights(dscores, memory.weights);
        multiply_weights<true>(memory, a.query_tile(head, query), of_k);
      }
    }
    const int64_t to = a.key_offset(kv_head) + tile * kTile * a.stride_time;
    store_result(of_k, ones, dk + to, a.stride_time, a.rows_of(tile), a.head_dim);
    store_result(of_v, ones, dv + to, a.stride_time, a.rows_of(tile), a.head_dim);
  });
}

template <int CHUNKS, class T>
__global__ void __launch_bounds__(kTileThreads, kBlocksAtOnce<CHUNKS>)
    query_gradients_kernel(Attention<T> a, T* dq) {
  __shared__ TileMemory memory;
  const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  for_tiles(a, a.batch * a.heads, a.causal, [&](int64_t head, int64_t tile) {
    Fragment of_q[CHUNKS] = {};
    const int64_t key_tiles = a.causal ? tile + 1 : a.tiles();
    for (int64_t key = 0; key < key_tiles; ++key) {
      Fragment weights, dscores;
      score_gradients(a, head, tile, key, memory.staged, weights, dscores);
      put_weights(dscores, memory.weights);
      multiply_weights<false>(memory, a.key_tile(a.k, head / a.group(), key), of_q);
    }
    store_result(of_q, ones, dq + a.query_offset(head) + tile * kTile * a.stride_time,
                 a.stride_time, a.rows_of(tile), a.head_dim);
  });
}

template <class T>
Attention<T> typed(const AttentionArgs& args) {
  return {args.batch,
          args.time,
          args.heads,
          args.kv_heads,
          args.head_dim,
          args.stride_batch,
          args.stride_time,
          args.stride_head,
          args.scale,
          args.causal,
          static_cast<const T*>(args.q),
          static_cast<const T*>(args.k),
          static_cast<const T*>(args.v),
          nullptr,
          nullptr,
          nullptr};
}

// Calls f with the number of chunks of kTile columns that hold a head, as a constant.
template <class F>
void with_chunks(const char* kernel, int64_t head_dim, const F& f) {
  check(head_dim <= kMostHeadDim, "[", kernel, "] expected a head size of at most ", kMostHeadDim,
        " on a CUDA device, got ", head_dim);
  if (head_dim <= kTile) return f(std::integral_constant<int, 1>{});
  if (head_dim <= 2 * kTile) return f(std::integral_constant<int, 2>{});
  f(std::integral_constant<int, kMostHeadDim / kTile>{});
}

// For all tiles of `heads` heads of each sample.
Grid grid_of_tiles(const AttentionArgs& args, int64_t heads) {
  const int64_t tiles = (args.time + kTile - 1) / kTile;
  return {std::min(args.batch * heads * tiles, kMostBlocks), kTileThreads};
}

}  // namespace

int64_t tiled_attention_memory(const AttentionArgs& args) {
  return args.batch * args.time * args.heads * int64_t{sizeof(float)};
}

void tiled_attention(const Queue& queue, const AttentionArgs& args, void* out, float* lse) {
  dispatch_float("attention", args.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_chunks("attention", args.head_dim, [&](auto chunks) {
      launch("attention", queue, grid_of_tiles(args, args.heads), Threads::together,
             attention_kernel<chunks, T>, typed<T>(args), static_cast<T*>(out), lse);
    });
  });
}

void tiled_attention_backward(const Queue& queue, const AttentionArgs& args, const void* out,
                              const float* lse, const void* dout, void* dq, void* dk, void* dv) {
  dispatch_float("attention_backward", args.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_chunks("attention_backward", args.head_dim, [&](auto chunks) {
      const int64_t rows = args.batch * args.time * args.heads;
      if (rows == 0) return;
      const Workspace space(queue, static_cast<size_t>(tiled_attention_memory(args)));
      Attention<T> a = typed<T>(args);
      a.dout = static_cast<const T*>(dout);
      a.lse = lse;
      launch("attention_backward", queue, grid_of_rows<kWarp>(rows), Threads::together,
             delta_kernel<T>, a, static_cast<const T*>(out), space.as<float>());
      a.delta = space.as<float>();
      launch("attention_backward", queue, grid_of_tiles(args, args.kv_heads), Threads::together,
             key_gradients_kernel<chunks, T>, a, static_cast<T*>(dk), static_cast<T*>(dv));
      launch("attention_backward", queue, grid_of_tiles(args, args.heads), Threads::together,
             query_gradients_kernel<chunks, T>, a, static_cast<T*>(dq));
    });
  });
}

}  // namespace lockstep::cuda
