// Layer norm and RMS norm as one thing, for the operations that contain one. Internal to core/ops.
#pragma once

#include "core/ops/common.h"

namespace lockstep::ops {

// y = (x − mean)·rstd·weight + bias over rows [rows, n]; RMS norm has no mean and no bias.
class RowNorm {
 public:
  enum class Kind : uint8_t { layer, rms };

  // x [..., n]; weight and bias: f32 [n] or undefined. `op`: a string literal.
  RowNorm(std::string_view op, Kind kind, float eps, const Variable& x, const Variable& weight, const Variable& bias);

  // [rows, n].
  Tensor forward();
  // y again, from x.
  Tensor recompute() const;
  // Adds to or writes the needed ones of three edges; dy is of x's dtype.
  void backward(const Tensor& dy, const Edge& dx, const Edge& dweight, const Edge& dbias) const;

 private:
  void run(const Tensor& x, const Tensor& y) const;

  Kind kind_;
  float eps_;
  SavedTensor x_;  // dense rows
  SavedWeight weight_, bias_;
  Tensor mean_, rstd_;  // f32 [rows]; mean only for layer norm
};

// Checks x [..., n] and the norm's vectors.
void check_norm(std::string_view op, const Variable& x, const Variable& weight, const Variable& bias, float eps);

inline Tensor data_or_undefined(const Variable& x) { return x.defined() ? x.data().contiguous() : Tensor(); }

}  // namespace lockstep::ops
