// What python/lockstep/nn is built on: parameters without values yet, initial values, and nodes of
// the library's own tree of modules, which sharding needs.
#include <cmath>

#include "core/autograd/node.h"
#include "core/nn/init.h"
#include "core/nn/module.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"
#include "python/bindings/node.h"

namespace lockstep::python {
namespace {

// A parameter that has a shape, but no values before initialize() or load_state_dict().
Parameter empty_parameter(const Shape& shape, const py::object& device) {
  const Device there = to_device(device);
  check(is_available(there), "[parameter] there is no device ", there);
  const auto storage = Storage::absent(
      static_cast<size_t>(byte_count(shape, DType::f32)), there,
      "the model has no initial values yet; call model.initialize(seed) or load_state_dict()");
  return Parameter("", Tensor::wrap(storage, shape, DType::f32));
}

bool has_values(const Parameter& p) { return p.data().storage()->present(); }

// Gives memory to a parameter that has none, and its initial values unless it is about to be
// filled.
void materialize(const Parameter& p, bool draw) {
  if (has_values(p)) return;
  check(!draw || p.impl()->initializer != nullptr, "[initialize] nothing says how '", p.name(),
        "' starts: set it in reset_parameters()");
  const MemoryScope category(MemoryCategory::parameters);
  const Tensor values = Tensor::empty(p.shape(), p.dtype(), p.device());
  p.set_data(values);
  if (draw) p.draw_initial(0, values);
}

Variable dropout(const Variable& x, float p, const std::string& path, uintptr_t owner) {
  check(p >= 0.0f && p < 1.0f, "[dropout] expected a probability within [0, 1), got ", p);
  return ops::dropout(x, p, nn::RandomScope::key(path, reinterpret_cast<const void*>(owner)));
}

}  // namespace

OptionalVariables PyNode::run(const OptionalVariables& inputs, const py::function& forward) {
  const Held function(forward);
  const Released released;
  const Held* const outer = std::exchange(forward_, &function);
  nn::Variables outputs;
  try {
    outputs = call(from_optional(inputs));
  } catch (...) {
    forward_ = outer;
    throw;
  }
  forward_ = outer;
  return to_optional(outputs);
}

nn::Variables PyNode::forward_all(const nn::Variables& inputs) {
  check(forward_ != nullptr, "[module] '", path(), "' was called outside of Python");
  const Held function = *forward_;
  const py::gil_scoped_acquire gil;
  return from_optional(function.get()(to_optional(inputs)).cast<OptionalVariables>());
}

void bind_nn(py::module_& m) {
  m.def("empty_parameter", &empty_parameter, py::arg("shape"), py::arg("device") = "cpu");
  m.def("has_values", &has_values);
  m.def("materialize", &materialize, py::arg("parameter"), py::arg("draw") = true, Run());
  m.def("init_normal", &nn::init_normal, py::arg("parameter"), py::arg("mean"), py::arg("std"),
        py::arg("seed"), Run());
  m.def("init_uniform", &nn::init_uniform, py::arg("parameter"), py::arg("low"), py::arg("high"),
        py::arg("seed"), Run());
  m.def("init_constant", &nn::init_constant, py::arg("parameter"), py::arg("value"), Run());
  m.def("dropout", &dropout, Run());
  m.def("uniform_bound", [](int64_t width) { return 1.0f / std::sqrt(static_cast<float>(width)); });
  py::class_<PyNode, std::shared_ptr<PyNode>>(m, "Node")
      .def(py::init<>())
      .def("add_parameter", &PyNode::add_parameter)
      .def("add_buffer", [](PyNode& node, const std::string& name,
                            const Variable& values) { node.add_buffer(name, values.data()); })
      .def("add_child", &PyNode::add_child)
      .def("run", &PyNode::run);
}

}  // namespace lockstep::python
