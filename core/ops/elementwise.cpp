#include <cmath>

#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

Tensor checked_binary(std::string_view name, BinaryOp op, const Variable& a, const Variable& b) {
  check(a.defined() && b.defined(), "[", name, "] expected two values, got an undefined variable");
  check(a.dtype() == b.dtype(), "[", name, "] expected values of one dtype, got ", a.data(),
        " and ", b.data(), "; cast() one of them");
  check_same_device(name, a, b);
  broadcast_shapes(a.shape(), b.shape(), name);
  return binary(op, a.data(), b.data());
}

std::string_view name_of(UnaryOp op) {
  switch (op) {
    case UnaryOp::neg: return "neg";
    case UnaryOp::exp: return "exp";
    case UnaryOp::log: return "log";
    case UnaryOp::sqrt: return "sqrt";
    case UnaryOp::rsqrt: return "rsqrt";
    case UnaryOp::square: return "square";
    case UnaryOp::abs: return "abs";
    case UnaryOp::tanh: return "tanh";
    case UnaryOp::sigmoid: return "sigmoid";
    case UnaryOp::relu: return "relu";
    case UnaryOp::silu: return "silu";
    case UnaryOp::gelu: return "gelu";
    case UnaryOp::gelu_tanh: return "gelu_tanh";
  }
  throw UsageError(str("[unary] unknown operation ", static_cast<int>(op)));
}

// op(x), for contiguous x.
Tensor applied(UnaryOp op, const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels_of(x).unary(queue_of(x), op, x.dtype(), x.numel(), x.raw(), y.raw());
  return y;
}

// Adds a gradient that has the result's shape to an input that may have been broadcast.
void add_reduced(const Edge& edge, const Tensor& gradient) {
  if (edge.needed()) edge.add(sum_to(gradient, edge.target()->shape));
}

}  // namespace

Variable add(const Variable& a, const Variable& b) {
  return record("add", checked_binary("add", BinaryOp::add, a, b), {a, b},
                [](const Tensor& g, const Node& n) {
                  add_reduced(n.edge(0), g);
                  add_reduced(n.edge(1), g);
                });
}

Variable sub(const Variable& a, const Variable& b) {
  return record("sub", checked_binary("sub", BinaryOp::sub, a, b), {a, b},
                [](const Tensor& g, const Node& n) {
                  add_reduced(n.edge(0), g);
                  if (n.edge(1).needed()) add_reduced(n.edge(1), scaled(g, -1.0f));
                });
}

Variable mul(const Variable& a, const Variable& b) {
  Tensor y = checked_binary("mul", BinaryOp::mul, a, b);
  const SavedTensor left = b.requires_grad() ? SavedTensor("mul", a) : SavedTensor();
  const SavedTensor right = a.requires_grad() ? SavedTensor("mul", b) : SavedTensor();
  return record("mul", std::move(y), {a, b}, [left, right](const Tensor& g, const Node& n) {
    if (n.edge(0).needed()) add_reduced(n.edge(0), binary(BinaryOp::mul, g, right.get()));
    if (n.edge(1).needed()) add_reduced(n.edge(1), binary(BinaryOp::mul, g, left.get()));
  });
}

Variable div(const Variable& a, const Variable& b) {
  Tensor y = checked_binary("div", BinaryOp::div, a, b);
  const SavedTensor divisor("div", b), quotient("div", kResult, b.requires_grad() ? y : Tensor());
  return record("div", y, {a, b}, [divisor, quotient](const Tensor& g, const Node& n) {
    const Tensor da = binary(BinaryOp::div, g, divisor.get());
    add_reduced(n.edge(0), da);
    if (n.edge(1).needed())
      add_reduced(n.edge(1), scaled(binary(BinaryOp::mul, da, quotient.get()), -1.0f));
  });
}

Variable add(const Variable& a, float b) {
  check(a.defined(), "[add] expected a value, got an undefined variable");
  check(is_floating(a.dtype()) || b == std::trunc(b), "[add] expected a whole number to add to ",
        a.data(), ", got ", b);
  Tensor y = binary(BinaryOp::add, a.data(), Tensor::full({}, b, a.dtype(), a.device()));
  return record("add", std::move(y), {a}, [](const Tensor& g, const Node& n) { n.edge(0).add(g); });
}

Variable mul(const Variable& a, float b) {
  check_floating("mul", a);
  return record("mul", scaled(a.data(), b), {a},
                [b](const Tensor& g, const Node& n) { n.edge(0).add(scaled(g, b)); });
}

Variable unary(UnaryOp op, const Variable& x) {
  const std::string_view name = name_of(op);
  check_floating(name, x);
  const SavedTensor saved(name, x, x.data().contiguous());
  const auto backward = [op, saved](const Tensor& g, const Node& n) {
    const Tensor& values = saved.get();
    n.edge(0).write_over(g, [&](const Tensor& dx, bool accumulate) {
      kernels_of(g).unary_backward(queue_of(g), op, g.dtype(), g.numel(), values.raw(), g.raw(),
                                   dx.raw(), accumulate);
    });
  };
  return recomputable(record(name, applied(op, saved.get()), {x}, backward),
                      [op, saved] { return applied(op, saved.get()); });
}

Variable neg(const Variable& x) { return unary(UnaryOp::neg, x); }
Variable exp(const Variable& x) { return unary(UnaryOp::exp, x); }
Variable log(const Variable& x) { return unary(UnaryOp::log, x); }
Variable sqrt(const Variable& x) { return unary(UnaryOp::sqrt, x); }
Variable rsqrt(const Variable& x) { return unary(UnaryOp::rsqrt, x); }
Variable square(const Variable& x) { return unary(UnaryOp::square, x); }
Variable abs(const Variable& x) { return unary(UnaryOp::abs, x); }
Variable tanh(const Variable& x) { return unary(UnaryOp::tanh, x); }
Variable sigmoid(const Variable& x) { return unary(UnaryOp::sigmoid, x); }
Variable relu(const Variable& x) { return unary(UnaryOp::relu, x); }
Variable silu(const Variable& x) { return unary(UnaryOp::silu, x); }
Variable gelu(const Variable& x) { return unary(UnaryOp::gelu, x); }
Variable gelu_tanh(const Variable& x) { return unary(UnaryOp::gelu_tanh, x); }

Variable cast(const Variable& x, DType dtype) {
  check(x.defined() && is_floating(x.dtype()) && is_floating(dtype),
        "[cast] expected floating-point dtypes, got ", x.defined() ? x.dtype() : dtype, " and ",
        dtype);
  if (x.dtype() == dtype) return x;
  return record("cast", x.data().to(dtype), {x}, [](const Tensor& g, const Node& n) {
    n.edge(0).add(g.to(n.edge(0).target()->dtype));
  });
}

Variable dropout(const Variable& x, float p, const RandomKey& key) {
  check_floating("dropout", x);
  check(p >= 0.0f && p < 1.0f, "[dropout] expected a probability within [0, 1), got ", p);
  if (p == 0.0f) return x;
  const Tensor in = x.data().contiguous();
  Tensor y = Tensor::empty(in.shape(), in.dtype(), in.device());
  kernels_of(in).dropout(queue_of(in), in.dtype(), in.numel(), p, key, in.raw(), y.raw(), false);
  return record("dropout", std::move(y), {x}, [p, key](const Tensor& g, const Node& n) {
    n.edge(0).write([&](const Tensor& dx, bool accumulate) {
      kernels_of(g).dropout(queue_of(g), g.dtype(), g.numel(), p, key, g.raw(), dx.raw(),
                            accumulate);
    });
  });
}

}  // namespace lockstep::ops
