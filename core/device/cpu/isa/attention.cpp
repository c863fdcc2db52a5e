// Attention by blocks of queries and keys. Scores exist only for one pair of blocks at a time. The
// forward pass keeps a running maximum and sum for each row (the online softmax of Milakov and
// Gimelshein, as in FlashAttention). The backward pass recomputes the probabilities from the rows'
// log-sum-exp. If the processor multiplies bf16, probabilities and their gradients are rounded to
// bf16 for the products that use them, as inputs and outputs are.
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/packing.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kBlock = 64;  // queries or keys of a block
// Queries in a piece of the forward pass. Each block of keys is packed once for all of them.
constexpr int64_t kQueriesAtOnce = 256;
constexpr float kInfinity = __builtin_inff();

LOCKSTEP_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One head of a [B, T, H, D] or [B, T, H_kv, D] tensor.
template <typename T>
struct Head {
  T* data;
  int64_t stride;  // from one time step to the next
  T* row(int64_t t) const { return data + t * stride; }
};

// Where head `head` of sample `sample` begins in q, k or v.
LOCKSTEP_INLINE int64_t head_offset(const AttentionArgs& a, int64_t sample, int64_t head) {
  return sample * a.stride_batch + head * a.stride_head;
}
// `head` counts the query heads of all samples.
template <typename T>
Head<T> query_head(const AttentionArgs& a, T* x, int64_t head) {
  return {x + head_offset(a, head / a.heads, head % a.heads), a.stride_time};
}
// The key or value head that the query head uses.
template <typename T>
Head<T> key_head(const AttentionArgs& a, T* x, int64_t head) {
  return {x + head_offset(a, head / a.heads, head % a.heads / a.group()), a.stride_time};
}
// One head of the dense `out`, or of its gradient.
template <typename T>
Head<T> dense_head(const AttentionArgs& a, T* x, int64_t head) {
  return {x + (head / a.heads * a.time * a.heads + head % a.heads) * a.head_dim,
          a.heads * a.head_dim};
}

// Returns rows in the form that a product needs: in place, or copied to `buffer` [rows,
// round_up(dim, 2)].
template <typename S, typename T>
PanelA rows_as_a(Head<const T> head, int64_t t, int64_t rows, int64_t dim,
                 typename S::Element* buffer) {
  if constexpr (sizeof(T) == sizeof(typename S::Element))
    if (dim % S::kPerStep == 0) return rows_of(head.row(t), head.stride);
  const int64_t width = steps<S>(dim) * S::kPerStep;
  for (int64_t i = 0; i < rows; ++i) {
    for_vectors(dim, [&](int64_t d, int64_t lanes) {
      store_at(buffer + i * width + d, load_at(head.row(t + i) + d, lanes), lanes);
    });
    if (dim < width) buffer[i * width + dim] = typename S::Element{};
  }
  return rows_of(buffer, width);
}

// Cuts consecutive pieces off one block of working memory.
class Cutter {
 public:
  explicit Cutter(char* memory) : next_(memory) {}
  template <typename T>
  void take(T** piece, int64_t count) {
    *piece = reinterpret_cast<T*>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
  }
  int64_t bytes_from(const char* start) const { return next_ - start; }

 private:
  char* next_;
};
// Makes a scratch structure. It calls lay_out() twice: once for the size, once for the addresses.
template <typename ScratchSpace>
ScratchSpace make_scratch(const AttentionArgs& a) {
  ScratchSpace s;
  Cutter sizes(nullptr);
  s.lay_out(sizes, a);
  Cutter places(scratch_of<char>(Scratch::tile, sizes.bytes_from(nullptr)));
  s.lay_out(places, a);
  return s;
}

template <typename S>
struct ForwardScratch {
  typename S::Packed *keys, *values;  // [dim, kBlock] and [kBlock, dim], packed
  float* scores;                      // [kBlock, kBlock]
  // weights [kBlock, kBlock]: exp(scores). They share memory with `scores` if they are floats.
  // rows: [kBlock, dim].
  typename S::Element *weights, *rows;
  float *out, *largest, *sum;  // [kQueriesAtOnce, dim], [kQueriesAtOnce] twice

  void lay_out(Cutter& cut, const AttentionArgs& a) {
    const int64_t dim = a.head_dim;
    cut.take(&keys, packed_size<S>(dim, kBlock));
    cut.take(&values, packed_size<S>(kBlock, dim));
    cut.take(&scores, kBlock * kBlock);
    if constexpr (sizeof(typename S::Element) == sizeof(float))
      weights = scores;
    else
      cut.take(&weights, kBlock * kBlock);
    cut.take(&rows, kBlock * (dim + 1));
    cut.take(&out, kQueriesAtOnce * dim);
    cut.take(&largest, kQueriesAtOnce);
    cut.take(&sum, kQueriesAtOnce);
  }
};

// Sets a row of a block to 0 from column `from` to its end.
template <typename E>
LOCKSTEP_INLINE void clear(E* row, int64_t from) {
  for (int64_t j = from; j < kBlock; j += kLanes)
    store_at(row + j, Vf{}, smaller(kBlock - j, kLanes));
}

// Turns a row of raw scores into weights exp(scale·score − maximum), and updates the row's maximum
// and sum. Returns the factor for the output so far. Only the first `visible` columns count; the
// rest of the block becomes 0.
template <typename E>
float softmax_step(const float* row, E* weights, int64_t visible, float scale, float* largest,
                   float* sum) {
  Vf top = splat(-kInfinity);
  for_vectors(visible, [&](int64_t j, int64_t lanes) {
    top = max(load_at(row + j, lanes, -kInfinity), top);
  });
  const float block_max = max_lanes(top) * scale;
  const float next = block_max > *largest ? block_max : *largest;
  Vf total{};
  for_vectors(visible, [&](int64_t j, int64_t lanes) {
    const Vf p = vexp(load_at(row + j, lanes, -kInfinity) * scale - next);
    store_at(weights + j, p, lanes);
    total += p;
  });
  clear(weights, visible);
  const float shrink = *largest == -kInfinity ? 0.0f : vexp(splat(*largest - next))[0];
  *sum = *sum * shrink + sum_lanes(total);
  *largest = next;
  return shrink;
}

// Returns how many of the `keys` keys from `key` on a query sees. It is never 0: blocks of queries
// and keys are aligned alike, and blocks wholly in the future are skipped.
LOCKSTEP_INLINE int64_t visible_keys(const AttentionArgs& a, int64_t query, int64_t key,
                                     int64_t keys) {
  return a.causal ? smaller(keys, query - key + 1) : keys;
}

// Processes one block of queries with one block of keys.
template <typename S, typename T>
void forward_block(const AttentionArgs& a, Head<const T> q, int64_t query, int64_t queries,
                   int64_t key, int64_t keys, int64_t local, const ForwardScratch<S>& s) {
  const int64_t dim = a.head_dim;
  micro_gemm<S>(queries, keys, dim, rows_as_a<S>(q, query, queries, dim, s.rows), s.keys,
                {s.scores, kBlock, false, nullptr});
  float* out = s.out + local * dim;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t visible = visible_keys(a, query + i, key, keys);
    const bool first = s.largest[local + i] == -kInfinity;
    const float shrink = softmax_step(s.scores + i * kBlock, s.weights + i * kBlock, visible,
                                      a.scale, s.largest + local + i, s.sum + local + i);
    if (first || shrink == 1.0f) continue;
    for_vectors(dim, [&](int64_t d, int64_t lanes) {
      store_at(out + i * dim + d, load_at(out + i * dim + d, lanes) * shrink, lanes);
    });
  }
  micro_gemm<S>(queries, dim, keys, rows_of(s.weights, kBlock), s.values,
                {out, dim, key > 0, nullptr});
}

template <typename T>
void forward_piece(const AttentionArgs& a, int64_t head, int64_t first, int64_t last, T* out,
                   float* lse) {
  using S = StepsOf<T>;
  const int64_t dim = a.head_dim;
  const auto s = make_scratch<ForwardScratch<S>>(a);
  const auto q = query_head(a, static_cast<const T*>(a.q), head),
             k = key_head(a, static_cast<const T*>(a.k), head),
             v = key_head(a, static_cast<const T*>(a.v), head);
  for (int64_t i = 0; i < last - first; ++i) {
    s.largest[i] = -kInfinity;
    s.sum[i] = 0.0f;
  }
  const int64_t end = a.causal ? last : a.time;
  for (int64_t key = 0; key < end; key += kBlock) {
    const int64_t keys = smaller(kBlock, end - key);
    pack_block<S>(k.row(key), k.stride, true, dim, keys, s.keys);
    pack_block<S>(v.row(key), v.stride, false, keys, dim, s.values);
    for (int64_t query = first; query < last; query += kBlock) {
      if (a.causal && query + kBlock <= key) continue;
      forward_block(a, q, query, smaller(kBlock, last - query), key, keys, query - first, s);
    }
  }
  const auto result = dense_head(a, out, head);
  for (int64_t i = 0; i < last - first; ++i) {
    const float inverse = 1.0f / s.sum[i];
    for_vectors(dim, [&](int64_t d, int64_t lanes) {
      store_at(result.row(first + i) + d, load_at(s.out + i * dim + d, lanes) * inverse, lanes);
    });
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

// A piece computes the sums over query blocks (dk, dv) and key blocks (dq) in order.
template <typename S>
struct BackwardScratch {
  // Packed for the whole head, as blocks of kBlock rows [k = rows, n = D].
  typename S::Packed *queries, *gradients;
  // One packed block each: [keys, D], [D, keys], [D, keys].
  typename S::Packed *keys, *keys_across, *values_across;
  float *scores, *dscores;  // [kBlock, kBlock]
  // scores and dscores as steps down the columns (down, ddown), and dscores as steps along the rows
  // (drows). They share the memory of scores and dscores if they are floats.
  typename S::Packed *down, *ddown;
  typename S::Element* drows;
  typename S::Element* rows;                   // [kBlock, D]
  float *dq, *dk, *dv, *delta;                 // [T, D], [kBlock, D] twice, [T]
  float *sum_dk = nullptr, *sum_dv = nullptr;  // [T, D], over the heads of a group so far

  void lay_out(Cutter& cut, const AttentionArgs& a) {
    const int64_t time = a.time, dim = a.head_dim;
    cut.take(&queries, packed_size<S>(round_up(time, kBlock), dim));
    cut.take(&gradients, packed_size<S>(round_up(time, kBlock), dim));
    cut.take(&keys, packed_size<S>(kBlock, dim));
    cut.take(&keys_across, packed_size<S>(dim, kBlock));
    cut.take(&values_across, packed_size<S>(dim, kBlock));
    cut.take(&scores, kBlock * kBlock);
    cut.take(&dscores, kBlock * kBlock);
    if constexpr (S::kPerStep == 1) {
      down = scores;
      ddown = drows = dscores;
    } else {
      cut.take(&down, kBlock / S::kPerStep * kBlock);
      cut.take(&ddown, kBlock / S::kPerStep * kBlock);
      cut.take(&drows, kBlock * kBlock);
    }
    cut.take(&rows, kBlock * (dim + 1));
    cut.take(&dq, time * dim);
    cut.take(&dk, kBlock * dim);
    cut.take(&dv, kBlock * dim);
    cut.take(&delta, time);
    if (a.group() == 1) return;
    cut.take(&sum_dk, time * dim);
    cut.take(&sum_dv, time * dim);
  }
};

// scores → P = exp(scale·score − lse), dscores (holding dP) → scale·P·(dP − delta).
template <typename S>
void probabilities(const AttentionArgs& a, int64_t query, int64_t queries, int64_t key,
                   int64_t keys, const float* lse, const BackwardScratch<S>& s) {
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t visible = visible_keys(a, query + i, key, keys);
    float *p = s.scores + i * kBlock, *dp = s.dscores + i * kBlock;
    const float shift = lse[query + i], delta = s.delta[query + i];
    for_vectors(visible, [&](int64_t j, int64_t lanes) {
      const Vf value = vexp(load_at(p + j, lanes) * a.scale - shift);
      store_at(p + j, value, lanes);
      store_at(dp + j, value * (load_at(dp + j, lanes) - delta) * a.scale, lanes);
    });
    clear(p, visible);
    clear(dp, visible);
  }
}

// Converts the block of scores and dscores for the products below.
void as_steps(int64_t, const BackwardScratch<Singles>&) {}
#if LOCKSTEP_BF16_DOT
void as_steps(int64_t queries, const BackwardScratch<Pairs>& s) {
  for (int64_t i = queries; i < steps<Pairs>(queries) * 2; ++i) {
    clear(s.scores + i * kBlock, 0);
    clear(s.dscores + i * kBlock, 0);
  }
  const auto pair = [](const float* upper) {
    return __builtin_convertvector(narrow(load(upper)), Vu) |
           (__builtin_convertvector(narrow(load(upper + kBlock)), Vu) << 16);
  };
  for (int64_t i = 0; i < steps<Pairs>(queries); ++i)
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      put(s.down + i * kBlock + j, pair(s.scores + 2 * i * kBlock + j));
      put(s.ddown + i * kBlock + j, pair(s.dscores + 2 * i * kBlock + j));
    }
  for (int64_t i = 0; i < queries * kBlock; i += kLanes) store(s.drows + i, load(s.dscores + i));
}
#endif

template <typename T>
struct BackwardHeads {
  Head<const T> q, k, v, out, dout;
  Head<T> dq, dk, dv;
};

template <typename T>
void store_rows(Head<T> head, int64_t t, int64_t rows, int64_t dim, const float* src) {
  for (int64_t i = 0; i < rows; ++i)
    for_vectors(dim, [&](int64_t d, int64_t lanes) {
      store_at(head.row(t + i) + d, load_at(src + i * dim + d, lanes), lanes);
    });
}

// Adds a block's gradients of keys or values to those of the group's heads before. The last one
// stores the sums.
template <typename T>
void add_member(const AttentionArgs& a, int64_t member, Head<T> head, int64_t t, int64_t rows,
                const float* part, float* sums) {
  const int64_t dim = a.head_dim;
  if (a.group() == 1) return store_rows(head, t, rows, dim, part);
  float* sum = sums + t * dim;
  for_vectors(rows * dim, [&](int64_t i, int64_t lanes) {
    const Vf x = load_at(part + i, lanes);
    store_at(sum + i, member == 0 ? x : load_at(sum + i, lanes) + x, lanes);
  });
  if (member == a.group() - 1) store_rows(head, t, rows, dim, sum);
}

template <typename S, typename T>
void prepare_head(const AttentionArgs& a, const BackwardHeads<T>& h, const BackwardScratch<S>& s) {
  for (int64_t t = 0; t < a.time; t += kBlock) {
    const int64_t rows = smaller(kBlock, a.time - t);
    pack_block<S>(h.q.row(t), h.q.stride, false, rows, a.head_dim,
                  s.queries + packed_size<S>(t, a.head_dim));
    pack_block<S>(h.dout.row(t), h.dout.stride, false, rows, a.head_dim,
                  s.gradients + packed_size<S>(t, a.head_dim));
  }
  for (int64_t t = 0; t < a.time; ++t) {
    Vf dot{};
    for_vectors(a.head_dim, [&](int64_t d, int64_t lanes) {
      dot += load_at(h.out.row(t) + d, lanes) * load_at(h.dout.row(t) + d, lanes);
    });
    s.delta[t] = sum_lanes(dot);
  }
}

template <typename S, typename T>
void backward_key_block(const AttentionArgs& a, const BackwardHeads<T>& h, const float* lse,
                        int64_t key, int64_t member, const BackwardScratch<S>& s) {
  const int64_t dim = a.head_dim;
  const int64_t keys = smaller(kBlock, a.time - key);
  pack_block<S>(h.k.row(key), h.k.stride, false, keys, dim, s.keys);
  pack_block<S>(h.k.row(key), h.k.stride, true, dim, keys, s.keys_across);
  pack_block<S>(h.v.row(key), h.v.stride, true, dim, keys, s.values_across);
  const int64_t start = a.causal ? key : 0;
  for (int64_t query = start; query < a.time; query += kBlock) {
    const int64_t queries = smaller(kBlock, a.time - query);
    const bool add = query > start;
    micro_gemm<S>(queries, keys, dim, rows_as_a<S>(h.q, query, queries, dim, s.rows), s.keys_across,
                  {s.scores, kBlock, false, nullptr});
    micro_gemm<S>(queries, keys, dim, rows_as_a<S>(h.dout, query, queries, dim, s.rows),
                  s.values_across, {s.dscores, kBlock, false, nullptr});
    probabilities(a, query, queries, key, keys, lse, s);
    as_steps(queries, s);
    const int64_t packed = packed_size<S>(query, dim);
    micro_gemm<S>(keys, dim, queries, columns_of(s.down, kBlock), s.gradients + packed,
                  {s.dv, dim, add, nullptr});
    micro_gemm<S>(keys, dim, queries, columns_of(s.ddown, kBlock), s.queries + packed,
                  {s.dk, dim, add, nullptr});
    micro_gemm<S>(queries, dim, keys, rows_of(s.drows, kBlock), s.keys,
                  {s.dq + query * dim, dim, key > 0, nullptr});
  }
  add_member(a, member, h.dk, key, keys, s.dk, s.sum_dk);
  add_member(a, member, h.dv, key, keys, s.dv, s.sum_dv);
}

template <typename T>
void backward(const AttentionArgs& a, const T* out, const float* lse, const T* dout, T* dq, T* dk,
              T* dv) {
  // One piece goes through all query heads of a key head.
  for_pieces(a.batch * a.kv_heads, [&](int64_t piece) {
    const auto s = make_scratch<BackwardScratch<StepsOf<T>>>(a);
    for (int64_t member = 0; member < a.group(); ++member) {
      const int64_t head = piece * a.group() + member;
      const BackwardHeads<T> h{query_head(a, static_cast<const T*>(a.q), head),
                               key_head(a, static_cast<const T*>(a.k), head),
                               key_head(a, static_cast<const T*>(a.v), head),
                               dense_head(a, out, head),
                               dense_head(a, dout, head),
                               query_head(a, dq, head),
                               key_head(a, dk, head),
                               key_head(a, dv, head)};
      prepare_head(a, h, s);
      for (int64_t key = 0; key < a.time; key += kBlock)
        backward_key_block(a, h, lse + head * a.time, key, member, s);
      store_rows(h.dq, 0, a.time, a.head_dim, s.dq);
    }
  });
}

}  // namespace

void attention(const AttentionArgs& args, void* out, float* lse) {
  if (args.dtype == DType::f32) return forward(args, static_cast<float*>(out), lse);
  if (args.dtype != DType::bf16) unsupported_dtype("attention", args.dtype);
  forward(args, static_cast<Bf16*>(out), lse);
}

void attention_backward(const AttentionArgs& args, const void* out, const float* lse,
                        const void* dout, void* dq, void* dk, void* dv) {
  if (args.dtype == DType::f32)
    return backward(args, static_cast<const float*>(out), lse, static_cast<const float*>(dout),
                    static_cast<float*>(dq), static_cast<float*>(dk), static_cast<float*>(dv));
  if (args.dtype != DType::bf16) unsupported_dtype("attention_backward", args.dtype);
  backward(args, static_cast<const Bf16*>(out), lse, static_cast<const Bf16*>(dout),
           static_cast<Bf16*>(dq), static_cast<Bf16*>(dk), static_cast<Bf16*>(dv));
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
