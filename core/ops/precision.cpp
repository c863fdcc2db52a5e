#include "core/ops/precision.h"

#include "core/autograd/node.h"

namespace lockstep::ops {
namespace {
thread_local PrecisionScope* t_scope = nullptr;

// Returns the copy of the current values in `dtype`, or an undefined tensor. Using the copy counts
// as a read, so absent values are brought first. Values that cannot be brought cannot have changed
// either; only their copy exists.
Tensor copy_in(const lockstep::detail::VariableImpl& leaf, DType dtype) {
  const Tensor& copy = leaf.compute_copy;
  if (!copy.defined() || copy.dtype() != dtype) return {};
  const Storage& values = *leaf.data.storage();
  return !values.bring() || values.version() == leaf.compute_copy_version ? copy : Tensor();
}
}  // namespace

PrecisionScope::PrecisionScope(DType compute) : compute_(compute), outer_(t_scope) {
  check(is_floating(compute), "[precision] expected f32, bf16 or f16, got ", compute);
  t_scope = this;
}

PrecisionScope::~PrecisionScope() {
  t_scope = outer_;
  for (const auto& weak : converted_)
    if (const auto impl = weak.lock()) impl->compute_copy = Tensor();
}

DType PrecisionScope::current() { return t_scope ? t_scope->compute_ : DType::f32; }

Tensor in_compute_dtype(const Variable& x) {
  const DType wanted = PrecisionScope::current();
  if (wanted == DType::f32 || x.dtype() == wanted) return x.data();
  const auto& impl = x.impl();
  if (const Tensor copy = copy_in(*impl, wanted); copy.defined()) return copy;
  if (!x.is_leaf() || !impl->requires_grad) return x.data().to(wanted);
  impl->compute_copy = x.data().to(wanted);
  impl->compute_copy_version = x.data().storage()->version();
  t_scope->converted_.push_back(impl);
  return impl->compute_copy;
}

// Keeps a computed weight by value, because its variable would keep its graph alive.
SavedWeight::SavedWeight(std::string_view op, const Variable& weight, DType dtype)
    : weight_(!weight.defined() || weight.is_leaf() ? weight : weight.detach()), dtype_(dtype) {
  if (weight_.defined()) values_ = lockstep::detail::ValueMark(op, weight_);
}

Tensor SavedWeight::get() const {
  if (!weight_.defined()) return {};
  values_.check_unchanged(*weight_.impl());
  if (weight_.dtype() == dtype_) return weight_.data();
  if (PrecisionScope::current() == dtype_) return in_compute_dtype(weight_);
  const Tensor copy = copy_in(*weight_.impl(), dtype_);
  return copy.defined() ? copy : weight_.data().to(dtype_);
}

}  // namespace lockstep::ops
