#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {

Variable reshape(const Variable& x, const Shape& shape) {
  return record("reshape", x.data().reshape(shape), {x}, [](const Tensor& g, const Node& n) {
    n.edge(0).add(g.view(n.edge(0).target()->shape));
  });
}

Variable transpose(const Variable& x, int axis_a, int axis_b) {
  return record("transpose", x.data().transpose(axis_a, axis_b), {x},
                [axis_a, axis_b](const Tensor& g, const Node& n) {
                  n.edge(0).add(g.transpose(axis_a, axis_b));
                });
}

Variable narrow(const Variable& x, int axis, int64_t start, int64_t length) {
  return record("narrow", x.data().narrow(axis, start, length), {x},
                [axis, start, length](const Tensor& g, const Node& n) {
                  n.edge(0).write([&](const Tensor& dx, bool accumulate) {
                    if (!accumulate) dx.zero_();
                    const Tensor part = dx.narrow(axis, start, length);
                    if (accumulate)
                      kernels_of(g).binary(queue_of(g), BinaryOp::add, strided(part), strided(part),
                                           strided(g));
                    else
                      part.copy_(g);
                  });
                });
}

Variable concat(const std::vector<Variable>& parts, int axis) {
  check(!parts.empty(), "[concat] expected at least one value, got none");
  const Tensor& first = parts[0].data();
  const int a = normalize_axis(axis, first.dim(), "concat");
  Shape shape = first.shape();
  shape[a] = 0;
  for (const Variable& part : parts) {
    Shape fits = part.shape();
    check(fits.size() == shape.size() && part.dtype() == first.dtype(),
          "[concat] expected parts like ", first, ", got ", part.data());
    check_same_device("concat", parts[0], part);
    shape[a] += fits[a];
    fits[a] = first.size(a);
    check(fits == first.shape(), "[concat] expected parts that differ along axis ", a,
          " alone, got ", first, " and ", part.data());
  }
  const Tensor y = Tensor::empty(shape, first.dtype(), first.device());
  int64_t start = 0;
  for (const Variable& part : parts) {
    y.narrow(a, start, part.shape()[a]).copy_(part.data());
    start += part.shape()[a];
  }
  std::vector<int64_t> lengths;
  for (const Variable& part : parts) lengths.push_back(part.shape()[a]);
  return record("concat", y, parts, [a, lengths](const Tensor& g, const Node& n) {
    int64_t at = 0;
    for (size_t i = 0; i < lengths.size(); at += lengths[i++])
      n.edge(i).add(g.narrow(a, at, lengths[i]));
  });
}

}  // namespace lockstep::ops
