// PrecisionScope: mixed precision. f32 parameters stay the masters, and their gradients stay f32.
// Values in between are stored in the scope's dtype and summed in f32.
#pragma once

#include <memory>
#include <vector>

#include "core/autograd/node.h"
#include "core/autograd/variable.h"

namespace lockstep::ops {

// While the object lives, matrix products, attention and embeddings of this thread compute in
// `compute`: f32 inputs are converted, and results have that dtype. Other operations follow the
// dtype of their inputs.
//
// Each parameter is converted once in a scope, so open one scope per step, around all of its
// micro-batches. A parameter whose values changed (an optimizer step, copy_, Parameter::set_data)
// is converted again. backward() may run inside the scope or after it. Scopes nest: an inner scope
// of another dtype converts for itself.
class PrecisionScope {
 public:
  // f32, bf16, or f16 for values on a CUDA device. f32 is the same as no scope.
  explicit PrecisionScope(DType compute);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

  // The dtype of the innermost scope of this thread, or f32 without a scope.
  static DType current();

 private:
  friend Tensor in_compute_dtype(const Variable& x);

  DType compute_;
  PrecisionScope* outer_;
  // The leaves whose copies end with the scope.
  std::vector<std::weak_ptr<lockstep::detail::VariableImpl>> converted_;
};

// The values of `x` in the dtype of the current scope. Returns the values themselves outside of any
// scope, or if they have that dtype already. The copy of a leaf that requires a gradient is kept
// until the scope ends.
Tensor in_compute_dtype(const Variable& x);

// A weight as backward will need it. For a leaf, it keeps the parameter and not its memory: a
// wrapper that spreads parameters over ranks may take the values away after forward and bring them
// back (Storage::attach) before backward.
class SavedWeight {
 public:
  SavedWeight() = default;
  // `op`: a string literal. `dtype`: the dtype of the values that get() returns.
  SavedWeight(std::string_view op, const Variable& weight, DType dtype);
  bool defined() const { return weight_.defined(); }
  // Throws UsageError if the values were changed since, as SavedTensor does.
  Tensor get() const;

 private:
  Variable weight_;
  lockstep::detail::ValueMark values_;
  DType dtype_ = DType::f32;
};

}  // namespace lockstep::ops
