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

Packed split(const Tensor& qkv) {
  char* base = static_cast<char*>(qkv.raw());
  const int64_t step = qkv.size(-1) / 3 * size_of(qkv.dtype());
  return {base, base + step, base + 2 * step};
}

AttentionArgs arguments(const Tensor& qkv, int64_t heads) {
  const int64_t width = qkv.size(2), head_dim = width / 3 / heads;
  const Packed part = split(qkv);
  return {.batch = qkv.size(0),
          .time = qkv.size(1),
          .heads = heads,
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

Variable causal_attention(const Variable& input, int64_t heads) {
  check_floating("causal_attention", input);
  check(heads > 0 && input.data().dim() == 3 && input.shape()[2] > 0 && input.shape()[2] % 3 == 0 &&
            input.shape()[2] / 3 % heads == 0,
        "[causal_attention] expected qkv [B, T, 3·C] with C a multiple of ", heads, " heads, got ",
        input.data());
  const Variable x =
      PrecisionScope::current() == DType::f32 ? input : cast(input, PrecisionScope::current());
  const Tensor qkv = x.data().contiguous();
  const Tensor out =
      Tensor::empty({qkv.size(0), qkv.size(1), qkv.size(2) / 3}, qkv.dtype(), qkv.device());
  const Tensor lse = Tensor::empty({qkv.size(0), heads, qkv.size(1)}, DType::f32, qkv.device());
  if (out.numel() > 0)
    kernels_of(qkv).attention(queue_of(qkv), arguments(qkv, heads), out.raw(), lse.data<float>());
  return record("causal_attention", out, {x},
                [packed = SavedTensor("causal_attention", x, qkv),
                 result = SavedTensor("causal_attention", kResult, out), lse,
                 heads](const Tensor& g, const Node& n) {
                  const Tensor &in = packed.get(), &y = result.get();
                  overwrite(n.edge(0), [&](const Tensor& dqkv) {
                    const Packed d = split(dqkv);
                    if (y.numel() == 0) return;
                    kernels_of(in).attention_backward(queue_of(in), arguments(in, heads), y.raw(),
                                                      lse.data<float>(), g.raw(), d.q, d.k, d.v);
                  });
                });
}

}  // namespace lockstep::ops
