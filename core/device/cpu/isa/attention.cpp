// Attention by blocks of queries and keys: scores exist only for one block pair at a time. The forward pass keeps a running
// maximum and sum for each row (Milakov and Gimelshein's online softmax, as in FlashAttention); the backward pass computes the
// probabilities anew from the rows' log-sum-exp.
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/micro_gemm.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kBlock = 64;           // queries or keys of a block
constexpr int64_t kQueriesAtOnce = 256;  // queries of a piece of the forward pass: blocks of keys are packed once for all of them
constexpr float kInfinity = __builtin_inff();

LOCKSTEP_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One head of a [B, T, H, D] tensor.
template <typename T>
struct Head {
  T* data;
  int64_t stride;  // from one time step to the next
  T* row(int64_t t) const { return data + t * stride; }
};

template <typename T>
Head<const T> input_head(const AttentionArgs& a, const void* x, int64_t head) {
  return {static_cast<const T*>(x) + head / a.heads * a.stride_batch + head % a.heads * a.stride_head, a.stride_time};
}
template <typename T>
Head<T> gradient_head(const AttentionArgs& a, void* x, int64_t head) {
  return {static_cast<T*>(x) + head / a.heads * a.stride_batch + head % a.heads * a.stride_head, a.stride_time};
}
// Of the dense `out` and its gradient.
template <typename T>
Head<T> dense_head(const AttentionArgs& a, T* x, int64_t head) {
  return {x + (head / a.heads * a.time * a.heads + head % a.heads) * a.head_dim, a.heads * a.head_dim};
}

// Rows as floats: in place, or converted into `buffer` [rows, dim].
PanelA rows_as_a(Head<const float> head, int64_t t, int64_t, int64_t, float*) { return rows_of(head.row(t), head.stride); }
PanelA rows_as_a(Head<const Bf16> head, int64_t t, int64_t rows, int64_t dim, float* buffer) {
  for (int64_t i = 0; i < rows; ++i)
    for_vectors(dim, [&](int64_t d, int64_t lanes) { store_at(buffer + i * dim + d, load_at(head.row(t + i) + d, lanes), lanes); });
  return rows_of(buffer, dim);
}

struct ForwardScratch {
  float *keys, *values, *scores, *query, *out, *largest, *sum;
};
ForwardScratch forward_scratch(int64_t dim) {
  const int64_t panel = packed_size(kBlock, dim) + packed_size(dim, kBlock);
  float* p = scratch_of<float>(Scratch::tile, panel + kBlock * kBlock + kBlock * dim + kQueriesAtOnce * (dim + 2));
  ForwardScratch s{};
  s.keys = p;
  s.values = s.keys + packed_size(dim, kBlock);
  s.scores = s.values + packed_size(kBlock, dim);
  s.query = s.scores + kBlock * kBlock;
  s.out = s.query + kBlock * dim;
  s.largest = s.out + kQueriesAtOnce * dim;
  s.sum = s.largest + kQueriesAtOnce;
  return s;
}

// Turns a row of raw scores into exp(scale·score − maximum), updates the row's maximum and sum, and returns what the output so
// far must be multiplied with. `visible` columns count; the rest become 0.
float softmax_step(float* row, int64_t visible, int64_t columns, float scale, float* largest, float* sum) {
  Vf top = splat(-kInfinity);
  for_vectors(visible, [&](int64_t j, int64_t lanes) { top = max(load_at(row + j, lanes, -kInfinity), top); });
  const float block_max = max_lanes(top) * scale;
  const float next = block_max > *largest ? block_max : *largest;
  Vf total{};
  for_vectors(visible, [&](int64_t j, int64_t lanes) {
    const Vf p = vexp(load_at(row + j, lanes, -kInfinity) * scale - next);
    store_at(row + j, p, lanes);
    total += p;
  });
  for (int64_t j = visible; j < columns; ++j) row[j] = 0.0f;
  const float shrink = *largest == -kInfinity ? 0.0f : vexp(splat(*largest - next))[0];
  *sum = *sum * shrink + sum_lanes(total);
  *largest = next;
  return shrink;
}

// How many of the `keys` from `key` on a query sees: never 0, as blocks of queries and keys are aligned alike and those wholly
// in the future are skipped.
LOCKSTEP_INLINE int64_t visible_keys(const AttentionArgs& a, int64_t query, int64_t key, int64_t keys) {
  return a.causal ? smaller(keys, query - key + 1) : keys;
}

// A block of queries meets a block of keys.
template <typename T>
void forward_block(const AttentionArgs& a, Head<const T> q, int64_t query, int64_t queries, int64_t key, int64_t keys, int64_t local,
                   const ForwardScratch& s) {
  const int64_t dim = a.head_dim;
  micro_gemm(queries, keys, dim, rows_as_a(q, query, queries, dim, s.query), s.keys, {s.scores, kBlock, false, nullptr});
  float* out = s.out + local * dim;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t visible = visible_keys(a, query + i, key, keys);
    const bool first = s.largest[local + i] == -kInfinity;
    const float shrink = softmax_step(s.scores + i * kBlock, visible, keys, a.scale, s.largest + local + i, s.sum + local + i);
    if (first || shrink == 1.0f) continue;
    for_vectors(dim, [&](int64_t d, int64_t lanes) { store_at(out + i * dim + d, load_at(out + i * dim + d, lanes) * shrink, lanes); });
  }
  micro_gemm(queries, dim, keys, rows_of(s.scores, kBlock), s.values, {out, dim, key > 0, nullptr});
}

template <typename T>
void forward_piece(const AttentionArgs& a, int64_t head, int64_t first, int64_t last, T* out, float* lse) {
  const int64_t dim = a.head_dim;
  const ForwardScratch s = forward_scratch(dim);
  const auto q = input_head<T>(a, a.q, head), k = input_head<T>(a, a.k, head), v = input_head<T>(a, a.v, head);
  for (int64_t i = 0; i < last - first; ++i) {
    s.largest[i] = -kInfinity;
    s.sum[i] = 0.0f;
  }
  const int64_t end = a.causal ? last : a.time;
  for (int64_t key = 0; key < end; key += kBlock) {
    const int64_t keys = smaller(kBlock, end - key);
    pack_block(k.row(key), k.stride, true, dim, keys, s.keys);
    pack_block(v.row(key), v.stride, false, keys, dim, s.values);
    for (int64_t query = first; query < last; query += kBlock) {
      if (a.causal && query + kBlock <= key) continue;
      forward_block(a, q, query, smaller(kBlock, last - query), key, keys, query - first, s);
    }
  }
  const auto result = dense_head(a, out, head);
  for (int64_t i = 0; i < last - first; ++i) {
    const float inverse = 1.0f / s.sum[i];
    for_vectors(
        dim, [&](int64_t d, int64_t lanes) { store_at(result.row(first + i) + d, load_at(s.out + i * dim + d, lanes) * inverse, lanes); });
    lse[head * a.time + first + i] = s.largest[i] + __builtin_logf(s.sum[i]);
  }
}

template <typename T>
void forward(const AttentionArgs& a, T* out, float* lse) {
  const int64_t groups = (a.time + kQueriesAtOnce - 1) / kQueriesAtOnce;
  for_pieces(a.batch * a.heads * groups, [&](int64_t piece) {
    const int64_t first = piece % groups * kQueriesAtOnce;
    forward_piece(a, piece / groups, first, smaller(first + kQueriesAtOnce, a.time), out, lse);
  });
}

// Packed once for a head: queries and output gradients, as [k = rows, n = D] blocks of kBlock rows. Sums over query blocks
// (dk, dv) and over key blocks (dq) run in order within one piece.
struct BackwardScratch {
  float *queries, *gradients;                 // packed, whole head
  float *keys, *keys_across, *values_across;  // packed, one block: [keys, D], [D, keys], [D, keys]
  float *scores, *dscores;                    // [kBlock, kBlock]
  float *row_a, *dq, *dk, *dv, *delta;        // [kBlock, D], [T, D], [kBlock, D] twice, [T]
};
BackwardScratch backward_scratch(int64_t time, int64_t dim) {
  const int64_t whole = round_up(time, kBlock) * round_up(dim, kLanes);
  const int64_t block = packed_size(kBlock, dim), across = packed_size(dim, kBlock), square = kBlock * kBlock;
  float* p = scratch_of<float>(Scratch::tile, 2 * whole + block + 2 * across + 2 * square + 3 * kBlock * dim + time * (dim + 1));
  const auto take = [&p](int64_t count) {
    float* begin = p;
    p += count;
    return begin;
  };
  BackwardScratch s{};
  s.queries = take(whole);
  s.gradients = take(whole);
  s.keys = take(block);
  s.keys_across = take(across);
  s.values_across = take(across);
  s.scores = take(square);
  s.dscores = take(square);
  s.row_a = take(kBlock * dim);
  s.dk = take(kBlock * dim);
  s.dv = take(kBlock * dim);
  s.dq = take(time * dim);
  s.delta = take(time);
  return s;
}

// scores → P = exp(scale·score − lse), dscores (holding dP) → scale·P·(dP − delta).
void probabilities(const AttentionArgs& a, int64_t query, int64_t queries, int64_t key, int64_t keys, const float* lse,
                   const BackwardScratch& s) {
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t visible = visible_keys(a, query + i, key, keys);
    float *p = s.scores + i * kBlock, *dp = s.dscores + i * kBlock;
    const float shift = lse[query + i], delta = s.delta[query + i];
    for_vectors(visible, [&](int64_t j, int64_t lanes) {
      const Vf value = vexp(load_at(p + j, lanes) * a.scale - shift);
      store_at(p + j, value, lanes);
      store_at(dp + j, value * (load_at(dp + j, lanes) - delta) * a.scale, lanes);
    });
    for (int64_t j = visible; j < keys; ++j) p[j] = dp[j] = 0.0f;
  }
}

template <typename T>
struct BackwardHeads {
  Head<const T> q, k, v, out, dout;
  Head<T> dq, dk, dv;
};

template <typename T>
void store_rows(Head<T> head, int64_t t, int64_t rows, int64_t dim, const float* src) {
  for (int64_t i = 0; i < rows; ++i)
    for_vectors(dim, [&](int64_t d, int64_t lanes) { store_at(head.row(t + i) + d, load_at(src + i * dim + d, lanes), lanes); });
}

template <typename T>
void prepare_head(const AttentionArgs& a, const BackwardHeads<T>& h, const BackwardScratch& s) {
  const int64_t padded = round_up(a.head_dim, kLanes);
  for (int64_t t = 0; t < a.time; t += kBlock) {
    const int64_t rows = smaller(kBlock, a.time - t);
    pack_block(h.q.row(t), h.q.stride, false, rows, a.head_dim, s.queries + t * padded);
    pack_block(h.dout.row(t), h.dout.stride, false, rows, a.head_dim, s.gradients + t * padded);
  }
  for (int64_t t = 0; t < a.time; ++t) {
    Vf dot{};
    for_vectors(a.head_dim, [&](int64_t d, int64_t lanes) { dot += load_at(h.out.row(t) + d, lanes) * load_at(h.dout.row(t) + d, lanes); });
    s.delta[t] = sum_lanes(dot);
  }
}

template <typename T>
void backward_key_block(const AttentionArgs& a, const BackwardHeads<T>& h, const float* lse, int64_t key, const BackwardScratch& s) {
  const int64_t dim = a.head_dim, padded = round_up(dim, kLanes);
  const int64_t keys = smaller(kBlock, a.time - key);
  pack_block(h.k.row(key), h.k.stride, false, keys, dim, s.keys);
  pack_block(h.k.row(key), h.k.stride, true, dim, keys, s.keys_across);
  pack_block(h.v.row(key), h.v.stride, true, dim, keys, s.values_across);
  const int64_t start = a.causal ? key : 0;
  for (int64_t query = start; query < a.time; query += kBlock) {
    const int64_t queries = smaller(kBlock, a.time - query);
    const bool add = query > start;
    micro_gemm(queries, keys, dim, rows_as_a(h.q, query, queries, dim, s.row_a), s.keys_across, {s.scores, kBlock, false, nullptr});
    micro_gemm(queries, keys, dim, rows_as_a(h.dout, query, queries, dim, s.row_a), s.values_across, {s.dscores, kBlock, false, nullptr});
    probabilities(a, query, queries, key, keys, lse, s);
    micro_gemm(keys, dim, queries, columns_of(s.scores, kBlock), s.gradients + query * padded, {s.dv, dim, add, nullptr});
    micro_gemm(keys, dim, queries, columns_of(s.dscores, kBlock), s.queries + query * padded, {s.dk, dim, add, nullptr});
    micro_gemm(queries, dim, keys, rows_of(s.dscores, kBlock), s.keys, {s.dq + query * dim, dim, key > 0, nullptr});
  }
  store_rows(h.dk, key, keys, dim, s.dk);
  store_rows(h.dv, key, keys, dim, s.dv);
}

template <typename T>
void backward(const AttentionArgs& a, const T* out, const float* lse, const T* dout, T* dq, T* dk, T* dv) {
  for_pieces(a.batch * a.heads, [&](int64_t head) {
    const BackwardScratch s = backward_scratch(a.time, a.head_dim);
    const BackwardHeads<T> h{input_head<T>(a, a.q, head),   input_head<T>(a, a.k, head),  input_head<T>(a, a.v, head),
                             dense_head(a, out, head),      dense_head(a, dout, head),    gradient_head<T>(a, dq, head),
                             gradient_head<T>(a, dk, head), gradient_head<T>(a, dv, head)};
    prepare_head(a, h, s);
    for (int64_t key = 0; key < a.time; key += kBlock) backward_key_block(a, h, lse + head * a.time, key, s);
    store_rows(h.dq, 0, a.time, a.head_dim, s.dq);
  });
}

}  // namespace

void attention(const AttentionArgs& args, void* out, float* lse) {
  if (args.dtype == DType::f32) return forward(args, static_cast<float*>(out), lse);
  if (args.dtype != DType::bf16) unsupported_dtype("attention", args.dtype);
  forward(args, static_cast<Bf16*>(out), lse);
}

void attention_backward(const AttentionArgs& args, const void* out, const float* lse, const void* dout, void* dq, void* dk, void* dv) {
  if (args.dtype == DType::f32)
    return backward(args, static_cast<const float*>(out), lse, static_cast<const float*>(dout), static_cast<float*>(dq),
                    static_cast<float*>(dk), static_cast<float*>(dv));
  if (args.dtype != DType::bf16) unsupported_dtype("attention_backward", args.dtype);
  backward(args, static_cast<const Bf16*>(out), lse, static_cast<const Bf16*>(dout), static_cast<Bf16*>(dq), static_cast<Bf16*>(dk),
           static_cast<Bf16*>(dv));
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
