// SavedTensor: a tensor that an operation keeps for backward. Every operation keeps its tensors
// this way. An optimizer, copy_() or a broadcast may change forward's values in place before
// backward reads them. Gradients from the new values would be silently wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "core/autograd/variable.h"

namespace lockstep {

class SavedTensor {
 public:
  SavedTensor() = default;  // undefined: get() returns an undefined tensor
  // What the operation `op` needs of `input`: its values, or `kept`, which is a view or copy of
  // them.
  SavedTensor(std::string_view op, const Variable& input);
  SavedTensor(std::string_view op, const Variable& input, Tensor kept);
  // For a tensor that is not a Variable. `what` names its role in messages: "its result". `op` and
  // `what` are string literals.
  SavedTensor(std::string_view op, std::string_view what, Tensor kept);

  bool defined() const { return tensor_.defined(); }
  // Throws UsageError if the memory was changed in place since. It names the operation, the tensor,
  // and who changed it.
  const Tensor& get() const;

 private:
  [[noreturn]] void fail() const;

  std::string_view op_, what_;
  Tensor tensor_;
  uint64_t version_ = 0;
  std::weak_ptr<detail::VariableImpl> named_;  // set if the input has a name
};

// The values of an input that are expensive in memory. They are not kept if the operation that
// computed them can do so again from what it keeps anyway (recomputable()). A linear layer after a
// norm or an activation then keeps nothing of its input. For a transformer that saves over a third
// of all activations. On other devices than a CPU they are kept: computing them again is a launch
// each, whose time is mostly that of reading and writing memory.
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
