#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

void batched_gemm(const Tensor& dst, bool accumulate, const Tensor& a, const Tensor& b) {
  if (dst.dim() == 2) return gemm(dst, accumulate, a, b);
  for (int64_t i = 0; i < dst.size(0); ++i)
    batched_gemm(dst.select(0, i), accumulate, a.select(0, i), b.select(0, i));
}

// Expands the dimensions of `t` before its matrix to `batch`.
Tensor expand_batch(const Tensor& t, const Shape& batch) {
  Shape shape = batch;
  shape.push_back(t.size(-2));
  shape.push_back(t.size(-1));
  return t.expand(shape);
}

Shape batch_of(const Tensor& t) {
  Shape batch;
  for (int i = 0; i < t.dim() - 2; ++i) batch.push_back(t.size(i));
  return batch;
}

// Adds the gradient of one factor: x · y over the whole batch, summed over dimensions in which the
// factor was broadcast.
void factor_gradient(const Edge& edge, const Tensor& x, const Tensor& y) {
  const Shape batch = batch_of(x);
  Shape shape = batch;
  shape.push_back(x.size(-2));
  shape.push_back(y.size(-1));
  if (shape == edge.target()->shape) {
    edge.write([&](const Tensor& dst, bool accumulate) { batched_gemm(dst, accumulate, x, y); });
    return;
  }
  const Tensor full = Tensor::empty(shape, edge.target()->dtype, x.device());
  batched_gemm(full, false, x, y);
  edge.add(sum_to(full, edge.target()->shape));
}

}  // namespace

Variable matmul(const Variable& a, const Variable& b) {
  check_floating("matmul", a);
  check_floating("matmul", b);
  check_same_device("matmul", a, b);
  check(a.data().dim() >= 2 && b.data().dim() >= 2 && a.data().size(-1) == b.data().size(-2),
        "[matmul] expected [..., M, K] and [..., K, N], got ", a.data(), " and ", b.data());
  const Tensor left = in_compute_dtype(a), right = in_compute_dtype(b);
  check(left.dtype() == right.dtype(), "[matmul] expected factors of one dtype, got ", a.data(),
        " and ", b.data(), "; cast() one or use a PrecisionScope");
  const Shape batch = broadcast_shapes(batch_of(left), batch_of(right), "matmul");
  const Tensor x = expand_batch(left, batch), y = expand_batch(right, batch);
  Shape shape = batch;
  shape.push_back(left.size(-2));
  shape.push_back(right.size(-1));
  Tensor out = Tensor::empty(shape, left.dtype(), left.device());
  batched_gemm(out, false, x, y);
  return record("matmul", std::move(out), {a, b},
                [left = SavedTensor("matmul", a, x), right = SavedTensor("matmul", b, y)](
                    const Tensor& g, const Node& n) {
                  if (n.edge(0).needed())
                    factor_gradient(n.edge(0), g, right.get().transpose(-2, -1));
                  if (n.edge(1).needed())
                    factor_gradient(n.edge(1), left.get().transpose(-2, -1), g);
                });
}

}  // namespace lockstep::ops
