#include "core/ops/precision.h"

#include "core/autograd/node.h"

namespace lockstep::ops {
namespace {
thread_local PrecisionScope* t_scope = nullptr;
}

PrecisionScope::PrecisionScope(DType compute) : compute_(compute), outer_(t_scope) {
  check(compute == DType::f32 || compute == DType::bf16, "[precision] expected f32 or bf16, got ", compute);
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
  if (impl->compute_copy.defined() && impl->compute_copy.dtype() == wanted) return impl->compute_copy;
  if (!x.is_leaf() || !impl->requires_grad) return x.data().to(wanted);
  impl->compute_copy = x.data().to(wanted);
  t_scope->converted_.push_back(impl);
  return impl->compute_copy;
}

// A computed weight is kept by value: its variable would keep the graph behind it alive.
SavedWeight::SavedWeight(const Variable& weight, DType dtype)
    : weight_(!weight.defined() || weight.is_leaf() ? weight : weight.detach()), dtype_(dtype) {}

Tensor SavedWeight::get() const {
  if (!weight_.defined() || weight_.dtype() == dtype_) return weight_.defined() ? weight_.data() : Tensor();
  if (PrecisionScope::current() == dtype_) return in_compute_dtype(weight_);
  const Tensor& copy = weight_.impl()->compute_copy;
  return copy.defined() && copy.dtype() == dtype_ ? copy : weight_.data().to(dtype_);
}

}  // namespace lockstep::ops
