// PyNode: the library's side of a module that is written in Python. Sharding hooks into it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/nn/module.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"

namespace lockstep::python {

class PyNode final : public nn::Module {
 public:
  // The Python module has named the parameter already, with its full name.
  void add_parameter(const std::string& name, const Parameter& parameter) {
    register_shared_parameter(name, parameter);
  }
  void add_buffer(const std::string& name, const Tensor& values) { register_buffer(name, values); }
  void add_child(const std::string& name, const std::shared_ptr<PyNode>& child) {
    register_module(name, child);
  }
  // Runs the hooks, and between them forward(inputs), a function from a list to a list. With the
  // GIL.
  OptionalVariables run(const OptionalVariables& inputs, const py::function& forward);

 protected:
  nn::Variables forward_all(const nn::Variables& inputs) override;

 private:
  const Held* forward_ = nullptr;  // of the call under way
};

}  // namespace lockstep::python
