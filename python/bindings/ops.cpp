// Operations on tensors: methods, operators, and lockstep.nn.functional.
#include <algorithm>
#include <optional>

#include "core/autograd/node.h"
#include "core/ops/functions.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/errors.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

using Unary = Variable (*)(const Variable&);

// What the library does not compute, NumPy does on the host: whole numbers and comparisons.
py::object on_numpy(const char* op, const py::object& a, const py::object& b) {
  return py::module_::import("lockstep.host").attr(op)(a, b);
}

bool is_real(const Variable& x) { return is_floating(x.dtype()); }

// A number as a tensor that broadcasts.
Variable like(const Variable& x, double value) {
  return Variable(Tensor::full({}, value, x.dtype(), x.device()));
}

double number_of(const py::object& value) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

// x op y or y op x, where y may be a number.
template <typename Op>
py::object apply(const char* name, const Op& op, const py::object& self, const py::object& other,
                 bool reflected) {
  const auto& x = self.cast<const Variable&>();
  const bool numeric = !py::isinstance<Variable>(other) && is_number(other);
  if (!numeric && !py::isinstance<Variable>(other))
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  if (!is_real(x) || (!numeric && !is_real(other.cast<const Variable&>())))
    return reflected ? on_numpy(name, other, self) : on_numpy(name, self, other);
  const double value = numeric ? number_of(other) : 0;
  const Variable y = numeric ? Variable() : other.cast<Variable>();
  const Variable result = [&] {
    const Released released;
    const Variable second = numeric ? like(x, value) : y;
    return reflected ? op(second, x) : op(x, second);
  }();
  return py::cast(result);
}

using Binary = Variable (*)(const Variable&, const Variable&);

void bind_operator(py::class_<Variable>& tensor, const char* name, Binary op) {
  const std::string text(name);
  tensor.def(("__" + text + "__").c_str(), [name, op](const py::object& a, const py::object& b) {
    return apply(name, op, a, b, false);
  });
  tensor.def(("__r" + text + "__").c_str(), [name, op](const py::object& a, const py::object& b) {
    return apply(name, op, a, b, true);
  });
  tensor.def(("__i" + text + "__").c_str(),
             [text](const py::object&, const py::object&) -> py::object {
               throw UsageError(str("[", text,
                                    "] arithmetic in place does not exist, because it would not be "
                                    "recorded: write x = x ",
                                    text == "add"   ? "+"
                                    : text == "sub" ? "-"
                                    : text == "mul" ? "*"
                                                    : "/",
                                    " y, or use copy_()"));
             });
}

void bind_host_operator(py::class_<Variable>& tensor, const char* name) {
  tensor.def((std::string("__") + name + "__").c_str(),
             [name](const py::object& a, const py::object& b) -> py::object {
               if (!py::isinstance<Variable>(b) && !is_number(b))
                 return py::reinterpret_borrow<py::object>(Py_NotImplemented);
               return on_numpy(name, a, b);
             });
}

Variable power(const Variable& x, double exponent) {
  if (exponent == 1) return x;
  if (exponent == 2) return ops::square(x);
  if (exponent == 3) return ops::mul(ops::square(x), x);
  if (exponent == 0.5) return ops::sqrt(x);
  if (exponent == -0.5) return ops::rsqrt(x);
  if (exponent == -1) return ops::div(like(x, 1), x);
  throw UsageError(str("[pow] expected an exponent of 1, 2, 3, 0.5, -0.5 or -1, got ", exponent,
                       ": use exp(y * log(x))"));
}

Variable permute(const Variable& x, const Shape& axes) {
  const int dims = x.data().dim();
  check(axes.size() == dims, "[permute] expected ", dims, " dimensions, got ", axes);
  std::vector<int> order;
  for (int i = 0; i < dims; ++i) {
    order.push_back(normalize_axis(static_cast<int>(axes[i]), dims, "permute"));
    check(std::count(order.begin(), order.end(), order.back()) == 1,
          "[permute] expected each dimension once, got ", axes);
  }
  Variable result = x;
  std::vector<int> at;  // which dimension of x is where
  for (int i = 0; i < dims; ++i) at.push_back(i);
  for (int i = 0; i < dims; ++i) {
    const auto from = static_cast<int>(
        std::find(at.begin(), at.end(), order[static_cast<size_t>(i)]) - at.begin());
    if (from == i) continue;
    result = ops::transpose(result, i, from);
    std::swap(at[static_cast<size_t>(i)], at[static_cast<size_t>(from)]);
  }
  return result;
}

Variable unsqueeze(const Variable& x, int axis) {
  const int dims = x.data().dim();
  Shape shape = x.shape();
  shape.insert(normalize_axis(axis, dims + 1, "unsqueeze"), 1);
  return ops::reshape(x, shape);
}

Variable squeeze(const Variable& x, std::optional<int> axis) {
  Shape shape;
  const int only = axis ? normalize_axis(*axis, x.data().dim(), "squeeze") : -1;
  for (int i = 0; i < x.data().dim(); ++i)
    if (x.shape()[i] != 1 || (axis && i != only)) shape.push_back(x.shape()[i]);
  return ops::reshape(x, shape);
}

Variable flatten(const Variable& x, int first, int last) {
  const int dims = x.data().dim();
  if (dims == 0) return ops::reshape(x, {1});
  const int from = normalize_axis(first, dims, "flatten"),
            to = normalize_axis(last, dims, "flatten");
  check(from <= to, "[flatten] expected start_dim before end_dim, got ", first, " and ", last);
  Shape shape;
  int64_t joined = 1;
  for (int i = 0; i < dims; ++i) {
    if (i >= from && i <= to) joined *= x.shape()[i];
    if (i == to) shape.push_back(joined);
    if (i < from || i > to) shape.push_back(x.shape()[i]);
  }
  return ops::reshape(x, shape);
}

Variable expand(const Variable& x, const Shape& shape) {
  Shape full = shape;
  const int more = shape.size() - x.data().dim();
  for (int i = 0; i < shape.size(); ++i)
    if (full[i] == -1 && i >= more) full[i] = x.shape()[i - more];
  if (!detail::must_record({x})) return Variable(x.data().expand(full));
  return ops::add(x, Variable(Tensor::zeros(full, x.dtype(), x.device())));
}

Variable to(const Variable& x, const py::object& what) {
  if (py::isinstance<DType>(what)) {
    const auto dtype = what.cast<DType>();
    const Released released;
    if (dtype == x.dtype()) return x;
    if (is_real(x) && is_floating(dtype)) return ops::cast(x, dtype);
    check(!x.requires_grad() || !grad_enabled(), "[to] ", x.data(),
          " requires a gradient, which ends at ", dtype, ": use .detach()");
    return Variable(x.data().to(dtype));
  }
  const Device device = to_device(what);
  if (device == x.device()) return x;
  check(is_available(device), "[to] there is no device ", device);
  check(!x.requires_grad() || !grad_enabled(), "[to] ", x.data(),
        " requires a gradient, and moves between devices are not recorded: use .detach()");
  const Released released;
  return Variable(x.data().to(device));
}

template <typename All, typename Axis>
void bind_reduction(py::class_<Variable>& tensor, const char* name, const All& all,
                    const Axis& one) {
  tensor
      .def(
          name, [all](const Variable& x) { return all(x); }, Run(), "Over all elements.")
      .def(
          name, [one](const Variable& x, int dim, bool keepdim) { return one(x, dim, keepdim); },
          py::arg("dim"), py::arg("keepdim") = false, Run(), "Over one dimension.");
}

void bind_shapes(py::class_<Variable>& tensor) {
  const auto reshape = [](const Variable& x, const py::args& dims) {
    const Shape shape = shape_of(dims);
    const Released released;
    return ops::reshape(x, shape);
  };
  const auto transpose = [](const Variable& x, int a, int b) { return ops::transpose(x, a, b); };
  tensor.def("reshape", reshape, "A view if the layout allows, else a copy. One size may be -1.")
      .def(
          "view",
          [](const Variable& x, const py::args& dims) {
            const Shape shape = shape_of(dims);
            if (!detail::must_record({x})) return Variable(x.data().view(shape));
            static_cast<void>(x.data().view(shape));  // refuses layouts that need a copy
            return ops::reshape(x, shape);
          },
          "A view. UsageError if the layout would need a copy.")
      .def("transpose", transpose, py::arg("dim0"), py::arg("dim1"))
      .def("permute", [](const Variable& x, const py::args& d) { return permute(x, shape_of(d)); })
      .def("unsqueeze", &unsqueeze, py::arg("dim"))
      .def("squeeze", &squeeze, py::arg("dim") = py::none())
      .def("flatten", &flatten, py::arg("start_dim") = 0, py::arg("end_dim") = -1)
      .def(
          "expand", [](const Variable& x, const py::args& d) { return expand(x, shape_of(d)); },
          "Repeats dimensions of size 1 without a copy; a copy if it is recorded.")
      .def("narrow", &ops::narrow, py::arg("dim"), py::arg("start"), py::arg("length"))
      .def_property_readonly("T",
                             [](const Variable& x) {
                               check(x.data().dim() == 2, "[T] expected 2 dimensions, got ",
                                     x.data());
                               return ops::transpose(x, 0, 1);
                             })
      .def(
          "contiguous",
          [](const Variable& x) {
            if (x.data().is_contiguous()) return x;
            if (!detail::must_record({x})) return Variable(x.data().contiguous());
            return ops::mul(x, 1.0f);
          },
          Run())
      .def(
          "clone",
          [](const Variable& x) {
            if (!detail::must_record({x})) return Variable(x.data().clone());
            return ops::mul(x, 1.0f);
          },
          Run(), "A copy; the gradient passes through it.")
      .def("to", &to, py::arg("dtype_or_device"),
           "The values in another dtype, or on another device. The tensor itself if it is there.")
      .def("float", [](const Variable& x) { return to(x, py::cast(DType::f32)); })
      .def("bfloat16", [](const Variable& x) { return to(x, py::cast(DType::bf16)); })
      .def("long", [](const Variable& x) { return to(x, py::cast(DType::i64)); })
      .def("int", [](const Variable& x) { return to(x, py::cast(DType::i32)); })
      .def("cpu", [](const Variable& x) { return to(x, py::str("cpu")); });
}

void bind_functions(py::module_& m) {
  m.def(
      "linear",
      [](const Variable& x, const Variable& weight, const std::optional<Variable>& bias) {
        return ops::linear(x, weight, bias.value_or(Variable()));
      },
      py::arg("input"), py::arg("weight"), py::arg("bias") = py::none(), Run(),
      "input [..., in] times weight [out, in] transposed, plus bias float32 [out].");
  m.def(
      "embedding",
      [](const Variable& ids, const Variable& table) { return ops::embedding(ids.data(), table); },
      py::arg("input"), py::arg("weight"), Run(),
      "Rows of weight float32 [count, dim] at input [...] of int32, int64 or uint8.");
  m.def(
      "layer_norm",
      [](const Variable& x, const std::optional<Variable>& weight,
         const std::optional<Variable>& bias, float eps) {
        return ops::layer_norm(x, weight.value_or(Variable()), bias.value_or(Variable()), eps);
      },
      py::arg("input"), py::arg("weight") = py::none(), py::arg("bias") = py::none(),
      py::arg("eps") = 1e-5f, Run(), "Over the last dimension.");
  m.def(
      "rms_norm",
      [](const Variable& x, const std::optional<Variable>& weight, float eps) {
        return ops::rms_norm(x, weight.value_or(Variable()), eps);
      },
      py::arg("input"), py::arg("weight") = py::none(), py::arg("eps") = 1e-6f, Run(),
      "Over the last dimension.");
  m.def("causal_attention", &ops::causal_attention, py::arg("qkv"), py::arg("heads"),
        py::arg("kv_heads") = 0, Run(),
        "Causal self-attention. qkv [B, T, (heads + 2 kv_heads) D] holds queries, keys and values "
        "side by side; returns [B, T, heads D]. 0 kv_heads mean as many as heads.");
  m.def(
      "cross_entropy",
      [](const Variable& logits, const Variable& targets, int32_t ignore_index) {
        return ops::cross_entropy(logits, targets.data(), ignore_index);
      },
      py::arg("input"), py::arg("target"), py::arg("ignore_index") = -100, Run(),
      "The mean of -log softmax(input)[target]: input [..., classes], target [...] of whole "
      "numbers. Classes are the last dimension (PyTorch: the second).");
  m.def("concat", &ops::concat, py::arg("tensors"), py::arg("dim") = 0, Run());
}

void bind_creation(py::module_& m) {
  const auto full = [](const Shape& shape, double value, DType dtype, const py::object& device,
                       bool requires_grad) {
    const Device there = to_device(device);
    check(is_available(there), "[full] there is no device ", there);
    return Variable(Tensor::full(shape, value, dtype, there), requires_grad);
  };
  m.def("full", full, py::arg("size"), py::arg("fill_value"), py::arg("dtype") = DType::f32,
        py::arg("device") = "cpu", py::arg("requires_grad") = false,
        "A tensor of this shape, a tuple, filled with a number.");
}

}  // namespace

void bind_ops(py::module_& m) {
  auto tensor = py::class_<Variable>(m.attr("Tensor"));
  bind_operator(tensor, "add", &ops::add);
  bind_operator(tensor, "sub", &ops::sub);
  bind_operator(tensor, "mul", &ops::mul);
  bind_operator(tensor, "truediv", &ops::div);
  for (const char* name :
       {"eq", "ne", "lt", "le", "gt", "ge", "floordiv", "mod", "and", "or", "xor"})
    bind_host_operator(tensor, name);
  tensor.def("__matmul__", &ops::matmul, py::is_operator(), Run())
      .def("matmul", &ops::matmul, py::arg("other"), Run(),
           "[..., M, K] times [..., K, N]. Leading dimensions broadcast.")
      .def("__neg__", &ops::neg, Run())
      .def("__pos__", [](const Variable& x) { return x; })
      .def("__pow__", &power, py::arg("exponent"), py::is_operator(), Run());
  const std::pair<const char*, Unary> unary[] = {
      {"neg", &ops::neg},     {"exp", &ops::exp},
      {"log", &ops::log},     {"sqrt", &ops::sqrt},
      {"rsqrt", &ops::rsqrt}, {"square", &ops::square},
      {"abs", &ops::abs},     {"__abs__", &ops::abs},
      {"tanh", &ops::tanh},   {"sigmoid", &ops::sigmoid},
      {"relu", &ops::relu},   {"silu", &ops::silu},
      {"gelu", &ops::gelu},   {"gelu_tanh", &ops::gelu_tanh}};
  for (const auto& [name, op] : unary) tensor.def(name, op, Run());
  using All = Variable (*)(const Variable&);
  using Axis = Variable (*)(const Variable&, int, bool);
  bind_reduction(tensor, "sum", static_cast<All>(&ops::sum), static_cast<Axis>(&ops::sum));
  bind_reduction(tensor, "mean", static_cast<All>(&ops::mean), static_cast<Axis>(&ops::mean));
  tensor
      .def(
          "max", [](const Variable& x) { return ops::max(ops::reshape(x, {-1}), 0); }, Run())
      .def("max", &ops::max, py::arg("dim"), py::arg("keepdim") = false, Run(),
           "The largest values along one dimension, without their places.")
      .def("softmax", &ops::softmax, py::arg("dim") = -1, Run())
      .def("log_softmax", &ops::log_softmax, py::arg("dim") = -1, Run());
  bind_shapes(tensor);
  bind_functions(m);
  bind_creation(m);
}

}  // namespace lockstep::python
