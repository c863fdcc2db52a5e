#include "core/ops/common.h"
#include "core/ops/functions.h"
#include "core/ops/norm.h"

namespace lockstep::ops {
namespace {

Variable in_scope(const Variable& x) { return PrecisionScope::current() == DType::f32 ? x : cast(x, PrecisionScope::current()); }

// y = x · weightᵀ + bias over rows, and its gradients.
class RowLinear {
 public:
  // `op`: a string literal.
  RowLinear(std::string_view op, const Variable& x, const Variable& weight, const Variable& bias) {
    check_floating(op, x);
    check_floating(op, weight);
    check_same_device(op, x, weight);
    check_same_device(op, x, bias);
    check(weight.data().dim() == 2 && x.data().dim() >= 1 && x.data().size(-1) == weight.data().size(1), "[", op,
          "] expected x [..., in] and a weight [out, in], got ", x.data(), " and ", weight.data());
    check_vector(op, "a bias", bias, weight.data().size(0));
    const Tensor values = in_compute_dtype(weight);
    weight_ = SavedWeight(op, weight, values.dtype());
    out_ = values.size(0);
    in_ = values.size(1);
    check(x.dtype() == values.dtype(), "[", op, "] expected x and weight of one dtype, got ", x.data(), " and ", weight.data(),
          "; cast() x or use a PrecisionScope");
    bias_ = data_or_undefined(bias);
  }

  // rows [N, in] → [N, out].
  Tensor forward(const Tensor& rows) {
    const Tensor y = Tensor::empty({rows.size(0), out_}, rows.dtype(), rows.device());
    gemm(y, false, rows, weight_.get().transpose(0, 1), bias_);
    bias_ = Tensor();  // backward does not need it
    return y;
  }

  static void backward_weight(const Tensor& g, const Tensor& rows, const Edge& edge) {
    edge.write([&](const Tensor& dw, bool accumulate) { gemm(dw, accumulate, g.transpose(0, 1), rows); });
  }
  static void backward_bias(const Tensor& g, const Edge& edge) {
    edge.write([&](const Tensor& db, bool accumulate) {
      kernels_of(g).sum_rows(g.dtype(), g.size(0), g.size(1), g.raw(), db.data<float>(), accumulate);
    });
  }
  void backward_input(const Tensor& g, const Tensor& dx, bool accumulate) const { gemm(dx, accumulate, g, weight_.get()); }

  Tensor empty_input(const Tensor& g) const { return Tensor::empty({g.size(0), in_}, g.dtype(), g.device()); }
  Shape output_shape(const Variable& x) const {
    Shape shape = x.shape();
    shape[shape.size() - 1] = out_;
    return shape;
  }

 private:
  SavedWeight weight_;  // in x's dtype
  int64_t out_ = 0, in_ = 0;
  Tensor bias_;
};

Tensor activated(UnaryOp op, const Tensor& x) {
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels_of(x).unary(op, x.dtype(), x.numel(), x.raw(), y.raw());
  return y;
}

Variable norm_linear(std::string_view op, RowNorm::Kind kind, const Variable& input, const Variable& norm_weight, const Variable& norm_bias,
                     float eps, const Variable& weight, const Variable& bias) {
  check_norm(op, input, norm_weight, norm_bias, eps);
  const Variable x = in_scope(input);
  RowLinear linear(op, x, weight, bias);
  RowNorm norm(op, kind, eps, x, norm_weight, norm_bias);
  Tensor y = linear.forward(norm.forward()).view(linear.output_shape(x));
  return record(op, std::move(y), {x, norm_weight, norm_bias, weight, bias}, [linear, norm](const Tensor& gradient, const Node& n) {
    const Tensor g = as_rows(gradient);
    RowLinear::backward_bias(g, n.edge(4));
    if (n.edge(3).needed()) RowLinear::backward_weight(g, norm.recompute(), n.edge(3));
    if (!n.edge(0).needed() && !n.edge(1).needed() && !n.edge(2).needed()) return;
    const Tensor inner = linear.empty_input(g);
    linear.backward_input(g, inner, false);
    norm.backward(inner, n.edge(0), n.edge(1), n.edge(2));
  });
}

}  // namespace

Variable linear(const Variable& input, const Variable& weight, const Variable& bias) {
  check_floating("linear", input);
  const Variable x = in_scope(input);
  RowLinear linear("linear", x, weight, bias);
  const Tensor rows = as_rows(x.data());
  Tensor y = linear.forward(rows).view(linear.output_shape(x));
  return record(
      "linear", std::move(y), {x, weight, bias},
      [linear, saved = weight.requires_grad() ? SavedTensor("linear", x, rows) : SavedTensor()](const Tensor& gradient, const Node& n) {
        const Tensor g = as_rows(gradient);
        RowLinear::backward_bias(g, n.edge(2));
        if (n.edge(1).needed()) RowLinear::backward_weight(g, saved.get(), n.edge(1));
        n.edge(0).write([&](const Tensor& dx, bool accumulate) { linear.backward_input(g, as_rows(dx), accumulate); });
      });
}

Variable activation_linear(UnaryOp op, const Variable& input, const Variable& weight, const Variable& bias) {
  check_floating("activation_linear", input);
  const Variable x = in_scope(input);
  RowLinear linear("activation_linear", x, weight, bias);
  const Tensor rows = as_rows(x.data());
  Tensor y = linear.forward(activated(op, rows)).view(linear.output_shape(x));
  return record("activation_linear", std::move(y), {x, weight, bias},
                [op, linear, saved = SavedTensor("activation_linear", x, rows)](const Tensor& gradient, const Node& n) {
                  const Tensor g = as_rows(gradient);
                  const Tensor& in = saved.get();
                  RowLinear::backward_bias(g, n.edge(2));
                  if (n.edge(1).needed()) RowLinear::backward_weight(g, activated(op, in), n.edge(1));
                  n.edge(0).write([&](const Tensor& dx, bool accumulate) {
                    // The inner gradient goes where the outer one will be, unless something is there already.
                    const Tensor inner = accumulate ? linear.empty_input(g) : as_rows(dx);
                    linear.backward_input(g, inner, false);
                    kernels_of(g).unary_backward(op, g.dtype(), inner.numel(), in.raw(), inner.raw(), dx.raw(), accumulate);
                  });
                });
}

Variable layer_norm_linear(const Variable& x, const Variable& norm_weight, const Variable& norm_bias, float eps, const Variable& weight,
                           const Variable& bias) {
  return norm_linear("layer_norm_linear", RowNorm::Kind::layer, x, norm_weight, norm_bias, eps, weight, bias);
}

Variable rms_norm_linear(const Variable& x, const Variable& norm_weight, float eps, const Variable& weight, const Variable& bias) {
  return norm_linear("rms_norm_linear", RowNorm::Kind::rms, x, norm_weight, {}, eps, weight, bias);
}

}  // namespace lockstep::ops
