#include "core/ops/common.h"

#include <algorithm>
#include <limits>

namespace lockstep::ops {
namespace {

struct Operand {
  Tensor tensor;  // keeps a copy alive as long as it is used
  GemmOperand gemm;
};

// Uses a matrix with dense rows or columns in place, and copies any other.
Operand operand(const Tensor& t) {
  const int64_t rows = t.size(0), columns = t.size(1), down = t.strides()[0],
                across = t.strides()[1];
  if ((across == 1 || columns == 1) && (down >= columns || rows == 1))
    return {t, {t.raw(), t.dtype(), std::max(down, columns), false}};
  if ((down == 1 || rows == 1) && (across >= rows || columns == 1))
    return {t, {t.raw(), t.dtype(), std::max(across, rows), true}};
  const Tensor dense = t.clone();
  return {dense, {dense.raw(), dense.dtype(), std::max<int64_t>(columns, 1), false}};
}

}  // namespace

void check_floating(std::string_view op, const Variable& x) {
  check(x.defined(), "[", op, "] expected a value, got an undefined variable");
  const bool on_cpu = x.data().device() == kCpu;
  check(is_floating(x.dtype()) && !(on_cpu && x.dtype() == DType::f16), "[", op,
        "] expected f32 or bf16", on_cpu ? "" : " or f16", ", got ", x.data());
}

void check_vector(std::string_view op, std::string_view what, const Variable& x, int64_t n) {
  if (!x.defined()) return;
  check(x.dtype() == DType::f32 && x.shape() == Shape{n}, "[", op, "] expected ", what, " of f32[",
        n, "], got ", x.data());
}

void check_same_device(std::string_view op, const Variable& a, const Variable& b) {
  check(!b.defined() || a.device() == b.device(), "[", op, "] expected values on one device, got ",
        a.device(), " and ", b.defined() ? b.device() : a.device());
}

Tensor as_rows(const Tensor& x) {
  const Tensor dense = x.contiguous();
  Shape leading = x.shape();
  leading.erase(x.dim() - 1);
  return dense.view({leading.numel(), x.size(-1)});  // works even if rows have no elements
}

void gemm(const Tensor& dst, bool accumulate, const Tensor& a, const Tensor& b,
          const Tensor& bias) {
  if (accumulate && dst.dtype() != DType::f32) {
    const Tensor aside = Tensor::empty(dst.shape(), dst.dtype(), dst.device());
    gemm(aside, false, a, b, bias);
    kernels_of(dst).axpby(queue_of(dst), dst.dtype(), dst.numel(), 1.0f, aside.raw(), 1.0f,
                          dst.raw());
    return;
  }
  const Operand left = operand(a), right = operand(b);
  const bool rounded = bias.defined() && bias.dtype() != DType::f32;
  const float* add = bias.defined() && !rounded ? bias.data<float>() : nullptr;
  kernels_of(dst).gemm(queue_of(dst), {dst.size(0), dst.size(1), a.size(1), left.gemm, right.gemm,
                                       dst.raw(), dst.dtype(), dst.strides()[0], accumulate, add,
                                       rounded ? bias.raw() : nullptr});
}

Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast_shapes(a.shape(), b.shape(), "binary");
  const bool compares = op == BinaryOp::equal || op == BinaryOp::less || op == BinaryOp::greater;
  const Tensor out = Tensor::empty(shape, compares ? DType::boolean : a.dtype(), a.device());
  if (out.numel() > 0)
    kernels_of(out).binary(queue_of(out), op, strided(out), strided(a.expand(shape)),
                           strided(b.expand(shape)));
  return out;
}

Tensor reduced(ReduceKind kind, const Tensor& x, int axis) {
  if (x.dtype() == DType::f16)
    return reduced(kind, x.to(DType::f32), axis).to(DType::f16);  // there is no f16 kernel
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= x.size(i);
  for (int i = axis + 1; i < x.dim(); ++i) inner *= x.size(i);
  Shape shape = x.shape();
  shape.erase(axis);
  const Tensor out = Tensor::empty(shape, x.dtype(), x.device());
  const Tensor dense = x.contiguous();
  if (out.numel() > 0)
    kernels_of(x).reduce(queue_of(x), kind, x.dtype(), outer, x.size(axis), inner, dense.raw(),
                         out.raw());
  return out;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  Tensor t = x;
  // Sums the leading dimensions in one pass.
  if (const int lead = t.dim() - shape.size(); lead > 0) {
    Shape merged{1};
    for (int i = 0; i < lead; ++i) merged[0] *= t.size(i);
    for (int i = lead; i < t.dim(); ++i) merged.push_back(t.size(i));
    t = reduced(ReduceKind::sum, t.reshape(merged), 0);
  }
  for (int i = 0; i < shape.size(); ++i)
    if (shape[i] == 1 && t.size(i) != 1) t = reduced(ReduceKind::sum, t, i).unsqueeze(i);
  return t;
}

Tensor scaled(const Tensor& x, float factor) {
  if (x.dtype() == DType::f16)
    return scaled(x.to(DType::f32), factor).to(DType::f16);  // there is no f16 kernel
  const Tensor dense = x.contiguous();
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels_of(x).axpby(queue_of(x), x.dtype(), x.numel(), factor, dense.raw(), 0.0f, out.raw());
  return out;
}

Tensor checked_ids(std::string_view op, const Tensor& ids, int64_t limit, const int32_t* ignore) {
  check(ids.defined() &&
            (ids.dtype() == DType::i32 || ids.dtype() == DType::i64 || ids.dtype() == DType::u8),
        "[", op, "] expected ids of i32, i64 or u8, got ", ids);
  check(limit <= std::numeric_limits<int32_t>::max(), "[", op,
        "] expected fewer than 2^31 rows, got ", limit);
  // Reading ids of a device would wait for it. The kernels there give NaN for a wrong id.
  if (ids.device().type == DeviceType::cpu)
    for (const int64_t id : ids.to_vector<int64_t>())
      check((id >= 0 && id < limit) || (ignore && id == *ignore), "[", op,
            "] expected ids within [0, ", limit, "), got ", id);
  return ids.to(DType::i32).contiguous();
}

void overwrite(const Edge& edge, const std::function<void(const Tensor& dst)>& compute) {
  edge.write([&](const Tensor& dst, bool accumulate) {
    if (!accumulate) return compute(dst);
    const Tensor aside = Tensor::empty(dst.shape(), dst.dtype(), dst.device());
    compute(aside);
    kernels_of(dst).axpby(queue_of(dst), dst.dtype(), dst.numel(), 1.0f, aside.raw(), 1.0f,
                          dst.raw());
  });
}

void write_if_needed(const Edge& edge,
                     const std::function<void(const Tensor& dst, bool accumulate)>& write) {
  if (edge.needed())
    edge.write(write);
  else
    write(Tensor(), false);
}

}  // namespace lockstep::ops
