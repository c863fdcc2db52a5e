// backward(), hooks, functions in Python, and recomputation.
#include <optional>
#include <set>
#include <string>

#include "core/autograd/node.h"
#include "core/base/mutex.h"
#include "core/nn/recompute.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/errors.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

// Operations keep views of their names for ever.
std::string_view kept_name(const std::string& name) {
  static auto& mutex = *new Mutex;
  static auto* const names = new std::set<std::string>;
  const MutexLock lock(mutex);
  return *names->insert(name).first;
}

// The gradients that a function in Python returned, one for each input.
void deliver(std::string_view op, const py::object& returned, const Node& node,
             const std::vector<std::pair<Shape, DType>>& inputs) {
  const py::tuple gradients =
      py::isinstance<py::tuple>(returned) ? returned.cast<py::tuple>() : py::make_tuple(returned);
  check(gradients.size() == inputs.size(), "[", op,
        "] backward() must return one gradient for each "
        "of the ",
        inputs.size(), " tensors that forward() took, got ", gradients.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!node.edge(i).needed() || gradients[i].is_none()) continue;
    if (!py::isinstance<Variable>(gradients[i]))
      throw py::type_error("[" + std::string(op) +
                           "] backward() must return tensors or None, got " +
                           std::string(py::str(py::type::of(gradients[i]).attr("__name__"))));
    const auto gradient = gradients[i].cast<Variable>();
    check(gradient.shape() == inputs[i].first && gradient.dtype() == inputs[i].second, "[", op,
          "] expected backward() to return ", inputs[i].second, inputs[i].first, " for input ", i,
          ", got ", gradient.data());
    const Released released;
    node.edge(i).add(gradient.data());
  }
}

Variable record_function(const std::string& name, const Variable& result,
                         const std::vector<Variable>& inputs, const py::function& backward) {
  const std::string_view op = kept_name(name);
  std::vector<std::pair<Shape, DType>> kinds;
  for (const Variable& input : inputs) kinds.emplace_back(input.shape(), input.dtype());
  const Held function(backward);
  return record(op, result.data(), inputs,
                [op, function, kinds](const Tensor& gradient, const Node& node) {
                  const py::gil_scoped_acquire gil;
                  deliver(op, function.get()(Variable(gradient)), node, kinds);
                });
}

py::object add_hook(const Variable& x, const py::function& hook) {
  check(x.is_leaf() && x.requires_grad(),
        "[register_post_accumulate_grad_hook] only leaves that require a gradient have hooks");
  const Held function(hook);
  const HookHandle handle =
      detail::as_parameter(x.impl()).add_grad_hook([function](const Parameter& p) {
        const py::gil_scoped_acquire gil;
        function.get()(p);
      });
  return py::cast(handle);
}

std::vector<std::optional<Variable>> recompute(const OptionalVariables& inputs,
                                               const py::function& forward) {
  const Held function(forward);
  const Released released;
  return to_optional(
      nn::recompute_all(from_optional(inputs), [function](const std::vector<Variable>& in) {
        const py::gil_scoped_acquire gil;
        return from_optional(function.get()(to_optional(in)).cast<OptionalVariables>());
      }));
}

}  // namespace

void bind_autograd(py::module_& m) {
  auto tensor = py::class_<Variable>(m.attr("Tensor"));
  tensor
      .def(
          "backward",
          [](const Variable& x, const std::optional<Variable>& gradient) {
            x.backward(gradient ? gradient->data() : Tensor());
          },
          py::arg("gradient") = py::none(), Run(),
          "Differentiates with respect to all leaves, and frees the graph. `gradient` is that of "
          "this tensor; without it, the tensor must have one element. UsageError names the "
          "operation if values that it needs were changed in place since.")
      .def("register_post_accumulate_grad_hook", &add_hook, py::arg("hook"),
           "Calls hook(tensor) in each backward() that gives this leaf a gradient, once nothing "
           "more will be added to it. Returns a handle with remove().");
  py::class_<HookHandle>(m, "HookHandle").def("remove", &HookHandle::remove);
  py::class_<SavedTensor>(m, "SavedTensor")
      .def(py::init([](const std::string& op, const Variable& input) {
        return SavedTensor(kept_name(op), input);
      }))
      .def("get", [](const SavedTensor& saved) { return Variable(saved.get()); });
  m.def("record_function", &record_function);
  m.def("recompute", &recompute, py::arg("inputs"), py::arg("forward"));
  m.def("is_grad_enabled", &grad_enabled);
  m.def("reachable_leaves", &reachable_leaves, Run());
}

}  // namespace lockstep::python
