// SavedTensor: a tensor that an operation keeps for backward. Every operation keeps its tensors in
// these, because forward's values may be changed in place before backward reads them – by an
// optimizer, copy_(), a broadcast – and gradients made of the new ones would be wrong without a sign.
#pragma once

#include <cstdint>
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
  // What is no Variable. `what` says what it is to the operation, for messages: "its result". `op` and
  // `what` are string literals.
  SavedTensor(std::string_view op, std::string_view what, Tensor kept);

  bool defined() const { return tensor_.defined(); }
  // Throws UsageError where the memory was changed in place since: it names the operation, the tensor,
  // and who changed it.
  const Tensor& get() const;

 private:
  [[noreturn]] void fail() const;

  std::string_view op_, what_;
  Tensor tensor_;
  uint64_t version_ = 0;
  std::weak_ptr<detail::VariableImpl> named_;  // of an input that has a name
};

}  // namespace lockstep
