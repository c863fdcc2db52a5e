#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {
namespace {

const float* floats(const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; }
Tensor dense(const SavedWeight& weight) {
  return weight.defined() ? weight.get().contiguous() : Tensor();
}
float* writable(const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; }

// y = (x − mean)·rstd·weight + bias over rows [rows, n]. RMS norm has no mean and no bias.
class RowNorm {
 public:
  enum class Kind : uint8_t { layer, rms };

  // x [..., n]. weight and bias: f32 [n], or undefined. `op`: a string literal.
  RowNorm(std::string_view op, Kind kind, float eps, const Variable& x, const Variable& weight,
          const Variable& bias);

  // Returns y [rows, n].
  Tensor forward();
  // Computes y from x again.
  Tensor recompute() const;
  // Writes or adds to the gradients of those edges that need one. dy has the dtype of x.
  void backward(const Tensor& dy, const Edge& dx, const Edge& dweight, const Edge& dbias) const;

 private:
  void run(const Tensor& x, const Tensor& y) const;

  Kind kind_;
  float eps_;
  SavedTensor x_;  // dense rows
  SavedWeight weight_, bias_;
  Tensor mean_, rstd_;  // f32 [rows] and [rows + kNormWords]; mean only for layer norm
};

RowNorm::RowNorm(std::string_view op, Kind kind, float eps, const Variable& x,
                 const Variable& weight, const Variable& bias)
    : kind_(kind),
      eps_(eps),
      x_(op, x, as_rows(x.data())),
      weight_(op, weight, DType::f32),
      bias_(op, bias, DType::f32) {}

void RowNorm::run(const Tensor& x, const Tensor& y) const {
  const Kernels& k = kernels_of(x);
  const Tensor weight = dense(weight_), bias = dense(bias_);
  if (kind_ == Kind::layer)
    k.layer_norm(queue_of(x), x.dtype(), x.size(0), x.size(1), eps_, x.raw(), floats(weight),
                 floats(bias), y.raw(), mean_.data<float>(), rstd_.data<float>());
  else
    k.rms_norm(queue_of(x), x.dtype(), x.size(0), x.size(1), eps_, x.raw(), floats(weight), y.raw(),
               rstd_.data<float>());
}

Tensor RowNorm::forward() {
  const Tensor& x = x_.get();
  rstd_ = Tensor::empty({x.size(0) + kNormWords}, DType::f32, x.device());
  if (kind_ == Kind::layer) mean_ = Tensor::empty({x.size(0)}, DType::f32, x.device());
  return recompute();
}

Tensor RowNorm::recompute() const {
  // The kernel returns the same statistics every time.
  const Tensor& x = x_.get();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  run(x, y);
  return y;
}

void RowNorm::backward(const Tensor& dy, const Edge& dx, const Edge& dweight,
                       const Edge& dbias) const {
  const Tensor& x = x_.get();
  const Kernels& k = kernels_of(x);
  const Tensor weight = dense(weight_);
  write_if_needed(dweight, [&](const Tensor& dw, bool add_dw) {
    write_if_needed(dbias, [&](const Tensor& db, bool add_db) {
      write_if_needed(dx, [&](const Tensor& wanted, bool add_dx) {
        const Tensor to =
            wanted.defined() ? wanted : Tensor::empty(x.shape(), x.dtype(), x.device());
        if (kind_ == Kind::layer)
          k.layer_norm_backward(queue_of(x), x.dtype(), x.size(0), x.size(1), x.raw(),
                                floats(weight), floats(mean_), writable(rstd_), dy.raw(), to.raw(),
                                add_dx, writable(dw), add_dw, writable(db), add_db);
        else
          k.rms_norm_backward(queue_of(x), x.dtype(), x.size(0), x.size(1), x.raw(), floats(weight),
                              writable(rstd_), dy.raw(), to.raw(), add_dx, writable(dw), add_dw);
      });
    });
  });
}

void check_norm(std::string_view op, const Variable& x, const Variable& weight,
                const Variable& bias, float eps) {
  check_floating(op, x);
  check(x.data().dim() >= 1 && x.data().size(-1) > 0, "[", op,
        "] expected [..., n] with n > 0, got ", x.data());
  check(eps > 0.0f, "[", op, "] expected eps > 0, got ", eps);
  check_vector(op, "a weight", weight, x.data().size(-1));
  check_vector(op, "a bias", bias, x.data().size(-1));
  check_same_device(op, x, weight);
  check_same_device(op, x, bias);
}

Variable row_norm(std::string_view op, RowNorm::Kind kind, const Variable& x,
                  const Variable& weight, const Variable& bias, float eps) {
  check_norm(op, x, weight, bias, eps);
  RowNorm norm(op, kind, eps, x, weight, bias);
  Tensor y = norm.forward().view(x.shape());
  const auto backward = [norm](const Tensor& g, const Node& n) {
    norm.backward(g, n.edge(0), n.edge(1), n.edge(2));
  };
  return recomputable(record(op, std::move(y), {x, weight, bias}, backward),
                      [norm] { return norm.recompute(); });
}

}  // namespace

Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, float eps) {
  return row_norm("layer_norm", RowNorm::Kind::layer, x, weight, bias, eps);
}

Variable rms_norm(const Variable& x, const Variable& weight, float eps) {
  return row_norm("rms_norm", RowNorm::Kind::rms, x, weight, {}, eps);
}

}  // namespace lockstep::ops
