// SavedTensor: a tensor that an operation keeps for backward. Every operation keeps its tensors in
// these, because forward's values may be changed in place before backward reads them – by an
// optimizer, copy_(), a broadcast – and gradients made of the new ones would be wrong without a
// sign.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "core/autograd/variable.h"

namespace lockstep {

class SavedTensor {
 public:
  SavedTensor() = default;  // undefined: get() gives an undefined tensor
  // What the operation `op` needs of `input`: its values, or `kept`, a view or copy of them.
  SavedTensor(std::string_view op, const Variable& input);
  SavedTensor(std::string_view op, const Variable& input, Tensor kept);
  // What is no Variable. `what` says what it is to the operation, for messages: "its result". `op`
  // and `what` are string literals.
  SavedTensor(std::string_view op, std::string_view what, Tensor kept);

  bool defined() const { return tensor_.defined(); }
  // Throws UsageError where the memory was changed in place since: it names the operation, the
  // tensor, and who changed it.
  const Tensor& get() const;

 private:
  [[noreturn]] void fail() const;

  std::string_view op_, what_;
  Tensor tensor_;
  uint64_t version_ = 0;
  std::weak_ptr<detail::VariableImpl> named_;  // of an input that has a name
};

// The values of an input, in which an operation may have computed much: they are not kept where the
// operation that gave them can compute them again from what it keeps anyway (recomputable()). A
// linear layer after a norm or an activation then keeps nothing of its input, which for a
// transformer is over a third of all activations.
class SavedInput {
 public:
  SavedInput() = default;  // undefined
  // `kept`: the input's values, contiguous, in any shape.
  SavedInput(std::string_view op, const Variable& input, Tensor kept);
  // The values, contiguous, in the shape of `kept`. Throws UsageError as SavedTensor does.
  Tensor get() const;

 private:
  SavedTensor kept_;
  std::function<Tensor()> again_;
  Shape shape_;
};

}  // namespace lockstep
