#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

Variable in_scope(const Variable& x) {
  return PrecisionScope::current() == DType::f32 ? x : cast(x, PrecisionScope::current());
}

// y = x · weightᵀ + bias over rows, and its gradients.
class RowLinear {
 public:
  RowLinear(const Variable& x, const Variable& weight, const Variable& bias) {
    constexpr std::string_view op = "linear";
    check_floating(op, x);
    check_floating(op, weight);
    check_same_device(op, x, weight);
    check_same_device(op, x, bias);
    check(weight.data().dim() == 2 && x.data().dim() >= 1 &&
              x.data().size(-1) == weight.data().size(1),
          "[", op, "] expected x [..., in] and a weight [out, in], got ", x.data(), " and ",
          weight.data());
    check_vector(op, "a bias", bias, weight.data().size(0));
    const Tensor values = in_compute_dtype(weight);
    weight_ = SavedWeight(op, weight, values.dtype());
    out_ = values.size(0);
    check(x.dtype() == values.dtype(), "[", op, "] expected x and weight of one dtype, got ",
          x.data(), " and ", weight.data(), "; cast() x or use a PrecisionScope");
    // A CPU's products add a bias of f32. Others take one of the result's dtype, which the scope
    // converts once instead of each product.
    bias_ = x.data().device() == kCpu || !bias.defined() ? data_or_undefined(bias)
                                                         : in_compute_dtype(bias).contiguous();
  }

  // rows [N, in] → [N, out].
  Tensor forward(const Tensor& rows) {
    const Tensor y = Tensor::empty({rows.size(0), out_}, rows.dtype(), rows.device());
    gemm(y, false, rows, weight_.get().transpose(0, 1), bias_);
    bias_ = Tensor();  // backward does not need it
    return y;
  }

  // `input` is read only if the weight needs a gradient.
  static void backward_parameters(const Tensor& g, const SavedInput& input, const Edge& weight,
                                  const Edge& bias) {
    write_if_needed(bias, [&](const Tensor& db, bool add_db) {
      const Tensor rows = weight.needed() ? input.get() : Tensor();
      write_if_needed(weight, [&](const Tensor& dw, bool add_dw) {
        if (db.defined() && dw.defined() && dw.dtype() == DType::f32) {
          kernels_of(g).linear_gradients(queue_of(g), {.rows = g.size(0),
                                                       .n = g.size(1),
                                                       .m = rows.size(1),
                                                       .dtype = g.dtype(),
                                                       .dy = g.raw(),
                                                       .x = rows.raw(),
                                                       .dw = dw.data<float>(),
                                                       .accumulate_dw = add_dw,
                                                       .db = db.data<float>(),
                                                       .accumulate_db = add_db});
          return;
        }
        if (db.defined())
          kernels_of(g).sum_rows(queue_of(g), g.dtype(), g.size(0), g.size(1), g.raw(),
                                 db.data<float>(), add_db);
        if (dw.defined()) gemm(dw, add_dw, g.transpose(0, 1), rows);
      });
    });
  }
  void backward_input(const Tensor& g, const Tensor& dx, bool accumulate) const {
    gemm(dx, accumulate, g, weight_.get());
  }

  Shape output_shape(const Variable& x) const {
    Shape shape = x.shape();
    shape[shape.size() - 1] = out_;
    return shape;
  }

 private:
  SavedWeight weight_;  // in x's dtype
  int64_t out_ = 0;
  Tensor bias_;  // f32, or the result's dtype
};

}  // namespace

Variable linear(const Variable& input, const Variable& weight, const Variable& bias) {
  check_floating("linear", input);
  const Variable x = in_scope(input);
  RowLinear linear(x, weight, bias);
  const Tensor rows = as_rows(x.data());
  Tensor y = linear.forward(rows).view(linear.output_shape(x));
  return record(
      "linear", std::move(y), {x, weight, bias},
      [linear, saved = weight.requires_grad() ? SavedInput("linear", x, rows) : SavedInput()](
          const Tensor& gradient, const Node& n) {
        const Tensor g = as_rows(gradient);
        RowLinear::backward_parameters(g, saved, n.edge(1), n.edge(2));
        n.edge(0).write([&](const Tensor& dx, bool accumulate) {
          linear.backward_input(g, as_rows(dx), accumulate);
        });
      });
}

}  // namespace lockstep::ops
