#include "core/ops/norm.h"

#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

const float* floats(const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; }
Tensor dense(const SavedWeight& weight) { return weight.defined() ? weight.get().contiguous() : Tensor(); }
float* writable(const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; }

Variable row_norm(std::string_view op, RowNorm::Kind kind, const Variable& x, const Variable& weight, const Variable& bias, float eps) {
  check_norm(op, x, weight, bias, eps);
  RowNorm norm(kind, eps, as_rows(x.data()), weight, bias);
  Tensor y = norm.forward().view(x.shape());
  return record(op, std::move(y), {x, weight, bias},
                [norm](const Tensor& g, const Node& n) { norm.backward(g, n.edge(0), n.edge(1), n.edge(2)); });
}

}  // namespace

void check_norm(std::string_view op, const Variable& x, const Variable& weight, const Variable& bias, float eps) {
  check_floating(op, x);
  check(x.data().dim() >= 1 && x.data().size(-1) > 0, "[", op, "] expected [..., n] with n > 0, got ", x.data());
  check(eps > 0.0f, "[", op, "] expected eps > 0, got ", eps);
  check_vector(op, "a weight", weight, x.data().size(-1));
  check_vector(op, "a bias", bias, x.data().size(-1));
  check_same_device(op, x, weight);
  check_same_device(op, x, bias);
}

RowNorm::RowNorm(Kind kind, float eps, Tensor x, const Variable& weight, const Variable& bias)
    : kind_(kind), eps_(eps), x_(std::move(x)), weight_(weight, DType::f32), bias_(bias, DType::f32) {}

void RowNorm::run(const Tensor& y, const Tensor& mean, const Tensor& rstd) const {
  const Kernels& k = kernels_of(x_);
  const Tensor weight = dense(weight_), bias = dense(bias_);
  if (kind_ == Kind::layer)
    k.layer_norm(x_.dtype(), x_.size(0), x_.size(1), eps_, x_.raw(), floats(weight), floats(bias), y.raw(), mean.data<float>(),
                 rstd.data<float>());
  else
    k.rms_norm(x_.dtype(), x_.size(0), x_.size(1), eps_, x_.raw(), floats(weight), y.raw(), rstd.data<float>());
}

Tensor RowNorm::forward() {
  const Shape rows{x_.size(0)};
  rstd_ = Tensor::empty(rows, DType::f32, x_.device());
  if (kind_ == Kind::layer) mean_ = Tensor::empty(rows, DType::f32, x_.device());
  Tensor y = Tensor::empty(x_.shape(), x_.dtype(), x_.device());
  run(y, mean_, rstd_);
  return y;
}

Tensor RowNorm::recompute() const {
  // The kernel gives the same statistics again.
  Tensor y = Tensor::empty(x_.shape(), x_.dtype(), x_.device());
  run(y, mean_, rstd_);
  return y;
}

void RowNorm::backward(const Tensor& dy, const Edge& dx, const Edge& dweight, const Edge& dbias) const {
  const Kernels& k = kernels_of(x_);
  const Tensor weight = dense(weight_);
  write_if_needed(dweight, [&](const Tensor& dw, bool add_dw) {
    write_if_needed(dbias, [&](const Tensor& db, bool add_db) {
      write_if_needed(dx, [&](const Tensor& wanted, bool add_dx) {
        const Tensor to = wanted.defined() ? wanted : Tensor::empty(x_.shape(), x_.dtype(), x_.device());
        if (kind_ == Kind::layer)
          k.layer_norm_backward(x_.dtype(), x_.size(0), x_.size(1), x_.raw(), floats(weight), floats(mean_), floats(rstd_), dy.raw(),
                                to.raw(), add_dx, writable(dw), add_dw, writable(db), add_db);
        else
          k.rms_norm_backward(x_.dtype(), x_.size(0), x_.size(1), x_.raw(), floats(weight), floats(rstd_), dy.raw(), to.raw(), add_dx,
                              writable(dw), add_dw);
      });
    });
  });
}

Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, float eps) {
  return row_norm("layer_norm", RowNorm::Kind::layer, x, weight, bias, eps);
}

Variable rms_norm(const Variable& x, const Variable& weight, float eps) {
  return row_norm("rms_norm", RowNorm::Kind::rms, x, weight, {}, eps);
}

}  // namespace lockstep::ops
