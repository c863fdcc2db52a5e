#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

// Restores the axis that a reduction dropped: views the gradient in the input's shape, repeated
// along that axis.
Tensor spread(const Tensor& g, int axis, bool keepdim, const Shape& shape) {
  return (keepdim ? g : g.unsqueeze(axis)).expand(shape);
}

Tensor reduce_axis(std::string_view op, ReduceKind kind, const Variable& x, int& axis,
                   bool keepdim) {
  check_floating(op, x);
  axis = normalize_axis(axis, x.data().dim(), op);
  check(kind == ReduceKind::sum || x.shape()[axis] > 0, "[", op,
        "] expected at least one element along axis ", axis, ", got ", x.data());
  const Tensor y = reduced(kind, x.data(), axis);
  return keepdim ? y.unsqueeze(axis) : y;
}

// Views x as a single axis, which the kernel sums in its fixed tree.
Tensor reduce_all(std::string_view op, ReduceKind kind, const Variable& x) {
  check_floating(op, x);
  return reduced(kind, x.data().reshape({x.data().numel()}), 0);
}

using RowKernel = Variable (*)(const Variable&);

// Softmax kernels work on the last axis, so moves another axis there.
Variable along_axis(std::string_view op, const Variable& x, int axis, RowKernel f) {
  check_floating(op, x);
  const int a = normalize_axis(axis, x.data().dim(), op);
  if (a == x.data().dim() - 1) return f(x);
  return transpose(f(transpose(x, a, -1)), a, -1);
}

Variable softmax_rows(const Variable& x) {
  const Tensor in = as_rows(x.data());
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels_of(in).softmax(queue_of(in), in.dtype(), in.size(0), in.size(1), in.raw(), y.raw());
  return record("softmax", y, {x},
                [saved = SavedTensor("softmax", kResult, y), rows = in.size(0)](const Tensor& g,
                                                                                const Node& n) {
                  const Tensor& out = saved.get();
                  n.edge(0).write([&](const Tensor& dx, bool accumulate) {
                    kernels_of(g).softmax_backward(queue_of(g), g.dtype(), rows, out.size(-1),
                                                   out.raw(), g.raw(), dx.raw(), accumulate);
                  });
                });
}

// x − max − log Σ exp(x − max). Its gradient is g − softmax·Σ g.
Variable log_softmax_rows(const Variable& x) {
  const int axis = x.data().dim() - 1;
  const auto apply = [](UnaryOp op, const Tensor& t) {
    const Tensor y = Tensor::empty(t.shape(), t.dtype(), t.device());
    kernels_of(t).unary(queue_of(t), op, t.dtype(), t.numel(), t.raw(), y.raw());
    return y;
  };
  const Tensor shifted =
      binary(BinaryOp::sub, x.data(), reduced(ReduceKind::max, x.data(), axis).unsqueeze(axis));
  const Tensor sums = reduced(ReduceKind::sum, apply(UnaryOp::exp, shifted), axis).unsqueeze(axis);
  const Tensor y = binary(BinaryOp::sub, shifted, apply(UnaryOp::log, sums));
  return record(
      "log_softmax", y, {x},
      [saved = SavedTensor("log_softmax", kResult, y), axis, apply](const Tensor& g,
                                                                    const Node& n) {
        const Tensor total = reduced(ReduceKind::sum, g, axis).unsqueeze(axis);
        n.edge(0).add(binary(BinaryOp::sub, g,
                             binary(BinaryOp::mul, apply(UnaryOp::exp, saved.get()), total)));
      });
}

}  // namespace

Variable sum(const Variable& x) {
  return record(
      "sum", reduce_all("sum", ReduceKind::sum, x), {x},
      [](const Tensor& g, const Node& n) { n.edge(0).add(g.expand(n.edge(0).target()->shape)); });
}

Variable mean(const Variable& x) {
  Tensor y = reduce_all("mean", ReduceKind::mean, x);
  const float share = 1.0f / static_cast<float>(x.data().numel());
  return record("mean", std::move(y), {x}, [share](const Tensor& g, const Node& n) {
    n.edge(0).add(scaled(g, share).expand(n.edge(0).target()->shape));
  });
}

Variable sum(const Variable& x, int axis, bool keepdim) {
  Tensor y = reduce_axis("sum", ReduceKind::sum, x, axis, keepdim);
  return record("sum", std::move(y), {x}, [axis, keepdim](const Tensor& g, const Node& n) {
    n.edge(0).add(spread(g, axis, keepdim, n.edge(0).target()->shape));
  });
}

Variable mean(const Variable& x, int axis, bool keepdim) {
  Tensor y = reduce_axis("mean", ReduceKind::mean, x, axis, keepdim);
  const float share = 1.0f / static_cast<float>(x.shape()[axis]);
  return record("mean", std::move(y), {x}, [axis, keepdim, share](const Tensor& g, const Node& n) {
    n.edge(0).add(spread(scaled(g, share), axis, keepdim, n.edge(0).target()->shape));
  });
}

Variable max(const Variable& x, int axis, bool keepdim) {
  const Tensor y = reduce_axis("max", ReduceKind::max, x, axis, keepdim);
  return record(
      "max", y, {x},
      [result = SavedTensor("max", kResult, y), input = SavedTensor("max", x), axis, keepdim](
          const Tensor& g, const Node& n) {
        const Tensor &out = result.get(), &in = input.get();
        const Tensor is_max =
            binary(BinaryOp::equal, in, spread(out, axis, keepdim, in.shape())).to(in.dtype());
        const Tensor ties = reduced(ReduceKind::sum, is_max, axis).unsqueeze(axis);
        const Tensor share = binary(BinaryOp::div, keepdim ? g : g.unsqueeze(axis), ties);
        n.edge(0).add(binary(BinaryOp::mul, is_max, share));
      });
}

Variable softmax(const Variable& x, int axis) {
  return along_axis("softmax", x, axis, softmax_rows);
}
Variable log_softmax(const Variable& x, int axis) {
  return along_axis("log_softmax", x, axis, log_softmax_rows);
}

}  // namespace lockstep::ops
