// PrecisionScope: mixed precision. f32 parameters stay the masters and their gradients stay f32; in
// between, values are stored in the scope's dtype and summed in f32.
#pragma once

#include <memory>
#include <vector>

#include "core/autograd/node.h"
#include "core/autograd/variable.h"

namespace lockstep::ops {

// While it lives, matrix products, attention and embeddings of this thread compute in `compute`:
// f32 inputs are converted, and results have that dtype. Everything else follows the dtype of its
// inputs.
//
// Each parameter is converted once in a scope, so open one scope per step, around all of its
// micro-batches; one whose values changed (an optimizer step, copy_, Parameter::set_data) is
// converted anew. backward() may run inside the scope or after it. Scopes nest: an inner one of
// another dtype starts afresh.
class PrecisionScope {
 public:
  // f32 or bf16; f32 is the same as no scope.
  explicit PrecisionScope(DType compute);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

  // The dtype of the innermost scope of this thread; f32 outside of all.
  static DType current();

 private:
  friend Tensor in_compute_dtype(const Variable& x);

  DType compute_;
  PrecisionScope* outer_;
  std::vector<std::weak_ptr<lockstep::detail::VariableImpl>>
      converted_;  // whose copies end with the scope
};

// The values of `x` in the dtype of the current scope: itself outside of any scope, and where it
// has that dtype already. The copy of a leaf that requires a gradient is kept until the scope ends.
Tensor in_compute_dtype(const Variable& x);

// A weight as backward will need it. For a leaf this is the parameter, not its memory: whoever
// spreads parameters over ranks may take the values away after forward and bring them back
// (Storage::attach) before backward.
class SavedWeight {
 public:
  SavedWeight() = default;
  // `op`: a string literal. `dtype`: in which get() gives the values.
  SavedWeight(std::string_view op, const Variable& weight, DType dtype);
  bool defined() const { return weight_.defined(); }
  // Throws UsageError where the values were changed since, as SavedTensor does.
  Tensor get() const;

 private:
  Variable weight_;
  lockstep::detail::ValueMark values_;
  DType dtype_ = DType::f32;
};

}  // namespace lockstep::ops
