#include <cmath>

#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

struct Packed {
  char* q;
  char* k;
  char* v;
};

struct Heads {
  int64_t queries, keys;  // keys and values have as many

  int64_t all() const { return queries + 2 * keys; }
};

Packed split(const Tensor& qkv, const Heads& heads) {
  char* base = static_cast<char*>(qkv.raw());
  const int64_t head = qkv.size(-1) / heads.all() * size_of(qkv.dtype());
  return {base, base + heads.queries * head, base + (heads.queries + heads.keys) * head};
}

AttentionArgs arguments(const Tensor& qkv, const Heads& heads) {
  const int64_t width = qkv.size(2), head_dim = width / heads.all();
  const Packed part = split(qkv, heads);
  return {.batch = qkv.size(0),
          .time = qkv.size(1),
          .heads = heads.queries,
          .kv_heads = heads.keys,
          .head_dim = head_dim,
          .dtype = qkv.dtype(),
          .q = part.q,
          .k = part.k,
          .v = part.v,
          .stride_batch = qkv.size(1) * width,
          .stride_time = width,
          .stride_head = head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .causal = true};
}

}  // namespace

Variable causal_attention(const Variable& input, int64_t query_heads, int64_t kv_heads) {
  check_floating("causal_attention", input);
  const Heads heads{query_heads, kv_heads == 0 ? query_heads : kv_heads};
  check(input.data().dim() == 3 && heads.queries > 0 && heads.queries <= input.shape()[2] &&
            heads.keys > 0 && heads.queries % heads.keys == 0 &&
            input.shape()[2] % heads.all() == 0,
        "[causal_attention] expected qkv [B, T, (heads + 2·kv_heads)·D] where kv_heads divides "
        "heads, got ",
        heads.queries, " heads, ", heads.keys, " kv_heads and ", input.data());
  const Variable x =
      PrecisionScope::current() == DType::f32 ? input : cast(input, PrecisionScope::current());
  const Tensor qkv = x.data().contiguous();
  const int64_t batch = qkv.size(0), time = qkv.size(1);
  const Tensor out = Tensor::empty({batch, time, qkv.size(2) / heads.all() * heads.queries},
                                   qkv.dtype(), qkv.device());
  const Tensor lse = Tensor::empty({batch, heads.queries, time}, DType::f32, qkv.device());
  if (out.numel() > 0)
    kernels_of(qkv).attention(queue_of(qkv), arguments(qkv, heads), out.raw(), lse.data<float>());
  return record("causal_attention", out, {x},
                [packed = SavedTensor("causal_attention", x, qkv),
                 result = SavedTensor("causal_attention", kResult, out), lse,
                 heads](const Tensor& g, const Node& n) {
                  const Tensor &in = packed.get(), &y = result.get();
                  overwrite(n.edge(0), [&](const Tensor& dqkv) {
                    const Packed d = split(dqkv, heads);
                    if (y.numel() == 0) return;
                    kernels_of(in).attention_backward(queue_of(in), arguments(in, heads), y.raw(),
                                                      lse.data<float>(), g.raw(), d.q, d.k, d.v);
                  });
                });
}

}  // namespace lockstep::ops
