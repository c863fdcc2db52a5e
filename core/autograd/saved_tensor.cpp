#include "core/autograd/saved_tensor.h"

#include <utility>

#include "core/autograd/node.h"

namespace lockstep {

SavedTensor::SavedTensor(std::string_view op, std::string_view what, Tensor kept)
    : op_(op), what_(what), tensor_(std::move(kept)) {
  if (tensor_.defined()) version_ = tensor_.storage()->version();
}

SavedTensor::SavedTensor(std::string_view op, const Variable& input)
    : SavedTensor(op, input, input.data()) {}

SavedTensor::SavedTensor(std::string_view op, const Variable& input, Tensor kept)
    : SavedTensor(op, "an input", std::move(kept)) {
  if (!input.impl()->name.empty()) named_ = input.impl();
}

const Tensor& SavedTensor::get() const {
  if (tensor_.defined() && tensor_.storage()->version() != version_) [[unlikely]]
    fail();
  return tensor_;
}

void SavedTensor::fail() const {
  const auto named = named_.lock();
  const std::string tensor =
      named ? str("'", named->name, "' ", named->data) : str(what_, ", ", tensor_);
  throw UsageError(detail::changed_in_place(op_, tensor, tensor_.storage()->changed_by()));
}

SavedInput::SavedInput(std::string_view op, const Variable& input, Tensor kept)
    : shape_(kept.shape()) {
  const bool on_cpu = input.data().device() == kCpu;
  if (const auto& node = input.impl()->grad->node; node && on_cpu)
    again_ = node->recipe_for(input.data());
  if (!again_) kept_ = SavedTensor(op, input, std::move(kept));
}

Tensor SavedInput::get() const { return again_ ? again_().view(shape_) : kept_.get(); }

std::string detail::changed_in_place(std::string_view op, std::string_view tensor,
                                     std::string_view by) {
  return str("[", op, "] backward needs ", tensor, " as it was in the forward pass, but ", by,
             " changed it since; call backward() before that, or compute with a clone()");
}

detail::ValueMark::ValueMark(std::string_view op, const Variable& variable)
    : op_(op),
      storage_(variable.data().storage()),
      version_(variable.data().storage()->version()),
      replaced_(variable.impl()->replaced) {}

void detail::ValueMark::check_unchanged(const VariableImpl& now) const {
  const auto& storage = now.data.storage();
  const bool replaced = now.replaced != replaced_;
  if (!replaced && (storage != storage_.lock() || storage->version() == version_)) return;
  const std::string tensor =
      now.name.empty() ? str("an input, ", now.data) : str("'", now.name, "' ", now.data);
  throw UsageError(changed_in_place(op_, tensor, replaced ? "set_data()" : storage->changed_by()));
}

void detail::ValueMark::check_unchanged(DType dtype, const Shape& shape) const {
  const auto storage = storage_.lock();
  if (storage && storage->version() != version_)
    throw UsageError(changed_in_place(op_, str("an input, ", dtype, shape), storage->changed_by()));
}

}  // namespace lockstep
