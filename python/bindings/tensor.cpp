// lockstep.Tensor and lockstep.Parameter: a Variable of the library.
#include "python/bindings/tensor.h"

#include <cmath>
#include <limits>
#include <sstream>

#include "core/autograd/node.h"
#include "core/ops/functions.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/errors.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

constexpr int64_t kShown = 1000;  // elements that repr() shows

py::object number(const Tensor& values, int64_t index) {
  return dispatch(values.dtype(), [&](auto zero) -> py::object {
    using T = decltype(zero);
    const T value = static_cast<const T*>(values.raw())[index];
    if constexpr (std::is_same_v<T, bool>)
      return py::bool_(value);
    else if constexpr (std::is_integral_v<T>)
      return py::int_(value);
    else
      return py::float_(static_cast<double>(static_cast<float>(value)));
  });
}

py::object nested(const Tensor& values, int axis, int64_t& next) {
  if (axis == values.dim()) return number(values, next++);
  py::list items;
  for (int64_t i = 0; i < values.shape()[axis]; ++i) items.append(nested(values, axis + 1, next));
  return items;
}

py::object to_list(const Variable& x) {
  const Tensor values = on_host(x.data());
  int64_t next = 0;
  return nested(values, 0, next);
}

py::object item_of(const Variable& x) {
  check(x.data().numel() == 1, "[item] expected a tensor of one element, got ", x.data());
  return number(on_host(x.data()), 0);
}

std::string text_of(const Variable& x) {
  if (!x.defined()) return "<an undefined tensor>";
  std::ostringstream out;
  const Tensor& data = x.data();
  const bool here = data.storage()->present();
  out << (py::isinstance<Parameter>(py::cast(x)) ? "parameter" : "tensor") << "(";
  if (!here)
    out << "<not in memory>, shape=" << data.shape();
  else if (data.numel() > kShown)
    out << "<" << data.numel() << " values>, shape=" << data.shape();
  else
    out << std::string(py::str(to_list(x)));
  if (here && data.numel() == 0) out << ", shape=" << data.shape();
  out << ", dtype=" << std::string(py::str(py::cast(data.dtype()).attr("name")));
  if (data.device() != kCpu) out << ", device='" << data.device() << "'";
  if (x.requires_grad()) out << ", requires_grad=True";
  out << ")";
  return out.str();
}

bool truth(const Variable& x) {
  check(x.data().numel() == 1, "[bool] the truth of a tensor of ", x.data().numel(),
        " elements is ambiguous: use .all() or .any()");
  return item_of(x).cast<bool>();
}

int64_t length(const Variable& x) {
  if (x.data().dim() == 0) throw py::type_error("a tensor without dimensions has no length");
  return x.shape()[0];
}

void set_grad(const Variable& x, const std::optional<Variable>& gradient) {
  check(x.is_leaf(), "[grad] only leaves keep a gradient, and this tensor was computed");
  if (!gradient) return x.zero_grad();
  check(gradient->shape() == x.shape() && gradient->dtype() == x.dtype() &&
            gradient->device() == x.device(),
        "[grad] expected a gradient like the tensor, ", x.data(), ", got ", gradient->data());
  if (!x.grad_buffer().defined())
    x.set_grad_buffer(Tensor::empty(x.shape(), x.dtype(), x.device()));
  x.grad_buffer().copy_(gradient->data());
  x.mark_grad_valid();
}

Variable require(const Variable& x, bool on) {
  check(x.is_leaf(), "[requires_grad_] this tensor was computed by an operation; use .detach()");
  detail::as_parameter(x.impl()).set_requires_grad(on);
  return x;
}

Variable deep_copy(const Variable& x) {
  check(x.is_leaf(), "[deepcopy] only leaves can be copied with their state; use .clone()");
  return Variable(x.data().clone(), x.requires_grad());
}

void refuse_pickle() {
  throw py::type_error(
      "a lockstep tensor cannot be pickled: a pickle would lose whose memory it is and how it was "
      "computed; save it with lockstep.checkpoint, or pickle tensor.numpy()");
}

void bind_properties(py::class_<Variable>& tensor) {
  tensor
      .def_property_readonly(
          "shape", [](const Variable& x) { return x.shape(); },
          "The sizes of the dimensions, a tuple of int.")
      .def_property_readonly("dtype", [](const Variable& x) { return x.dtype(); })
      .def_property_readonly("device", [](const Variable& x) { return x.device(); })
      .def_property_readonly("ndim", [](const Variable& x) { return x.data().dim(); })
      .def_property_readonly("requires_grad", &Variable::requires_grad)
      .def_property_readonly("is_leaf", &Variable::is_leaf,
                             "Whether no operation computed it. Only leaves keep gradients.")
      .def_property_readonly("nbytes", [](const Variable& x) { return x.data().bytes(); })
      .def_property_readonly("itemsize", [](const Variable& x) { return size_of(x.dtype()); })
      .def_property_readonly("_version",
                             [](const Variable& x) { return x.data().storage()->version(); })
      .def_property(
          "grad", [](const Variable& x) { return to_python(x.is_leaf() ? x.grad() : Tensor()); },
          &set_grad,
          "The gradient that backward() gathered, or None. Shares memory with the gathered one.")
      .def("dim", [](const Variable& x) { return x.data().dim(); })
      .def(
          "numel", [](const Variable& x) { return x.data().numel(); }, "Number of elements.")
      .def("element_size", [](const Variable& x) { return size_of(x.dtype()); })
      .def(
          "stride", [](const Variable& x) { return x.data().strides(); }, "In elements.")
      .def("size", [](const Variable& x) { return x.shape(); })
      .def(
          "size", [](const Variable& x, int axis) { return x.data().size(axis); }, py::arg("dim"))
      .def("is_contiguous", [](const Variable& x) { return x.data().is_contiguous(); })
      .def("data_ptr",
           [](const Variable& x) { return reinterpret_cast<uintptr_t>(x.data().raw()); });
}

void bind_values(py::class_<Variable>& tensor) {
  tensor.def("item", &item_of, "The value of a tensor with one element, as a Python number.")
      .def("tolist", &to_list, "The values as nested lists; a number without dimensions.")
      .def("__float__", [](const Variable& x) { return py::float_(item_of(x)); })
      .def("__int__", [](const Variable& x) { return py::int_(item_of(x)); })
      .def("__index__",
           [](const Variable& x) {
             if (is_floating(x.dtype()))
               throw py::type_error("only tensors of whole numbers can be an index");
             return py::int_(item_of(x));
           })
      .def("__bool__", &truth)
      .def("__len__", &length)
      .def("__repr__", &text_of)
      .def("__hash__",
           [](const Variable& x) { return reinterpret_cast<uintptr_t>(x.impl().get()) >> 4; })
      .def("__deepcopy__", [](const Variable& x, const py::dict&) { return deep_copy(x); })
      .def("__reduce_ex__", [](const py::object&, int) { refuse_pickle(); })
      .def("__reduce__", [](const py::object&) { refuse_pickle(); });
  // NumPy leaves operators with tensors to the tensor, which takes tensors and numbers alone.
  tensor.attr("__array_ufunc__") = py::none();
}

void bind_changes(py::class_<Variable>& tensor) {
  const auto copy = [](const Variable& x, const Variable& from) {
    check_writable("copy_", x);
    const bool own = from.data().storage() == x.data().storage();  // the two may overlap
    x.data().copy_(own ? from.data().clone() : from.data());
    return x;
  };
  const auto fill = [](const Variable& x, const py::object& value) {
    check_writable("fill_", x);
    if (!is_number(value)) throw py::type_error("[fill_] expected a number");
    fill_with(x.data(), value);
    return x;
  };
  tensor
      .def("copy_", copy, py::arg("source"), Run(),
           "Writes the values of `source`, which broadcasts and is converted. Cuts off fractions. "
           "UsageError for values that the dtype cannot hold.")
      .def("fill_", fill, py::arg("value"))
      .def("zero_", [fill](const Variable& x) { return fill(x, py::int_(0)); })
      .def("requires_grad_", &require, py::arg("requires_grad") = true)
      .def("detach", &Variable::detach, "The same memory, without a graph.")
      .def("zero_grad", &Variable::zero_grad)
      .def(
          "mark_changed", [](const Variable& x) { x.data().mark_changed("mark_changed"); },
          "Says that the values were changed through NumPy or DLPack, which nothing else notices.");
}

}  // namespace

Tensor on_host(const Tensor& x) {
  const Released released;
  Tensor host = x.device() == kCpu ? x.contiguous() : x.to(kCpu).contiguous();
  static_cast<void>(host.raw());  // fails if the values are away
  return host;
}

void check_writable(const char* call, const Variable& x) {
  check(!x.requires_grad() || !grad_enabled(), "[", call, "] ", x.data(),
        " requires a gradient, and a change in place is not recorded: do it under "
        "lockstep.no_grad(), or compute a new tensor");
}

void bind_tensor(py::module_& m) {
  py::class_<Variable> tensor(m, "Tensor",
                              "An array of one dtype on one device, that may remember how it was "
                              "computed. lockstep.tensor() makes one.");
  zero_unconstructed(tensor);
  bind_properties(tensor);
  bind_values(tensor);
  bind_changes(tensor);
  py::class_<Parameter, Variable> parameter(
      m, "Parameter", "A tensor that a module trains. The module gives it its full name.");
  zero_unconstructed(parameter);
  parameter
      .def(py::init([](const Variable& data, bool requires_grad) {
             return Parameter("", data.data(), requires_grad);
           }),
           py::arg("data"), py::arg("requires_grad") = true)
      .def_property(
          "name", [](const Parameter& p) { return p.name(); },
          [](const Parameter& p, std::string name) { p.set_name(std::move(name)); })
      .def_property_readonly("is_slice", &Parameter::is_slice)
      .def_property_readonly(
          "global_shape", [](const Parameter& p) { return p.slice().global_shape(); },
          "The shape of the whole, of which FSDP's parameters are flat slices.")
      .def("__deepcopy__", [](const Parameter& p, const py::dict&) {
        return Parameter(p.name(), p.data().clone(), p.requires_grad());
      });
}

}  // namespace lockstep::python
