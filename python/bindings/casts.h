// Conversions between Python's types and the library's.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/autograd/variable.h"
#include "core/base/shape.h"

namespace lockstep::python {

namespace py = pybind11;

// Null for what is no sequence of whole numbers. Throws UsageError for numbers that do not fit.
bool load_shape(py::handle source, Shape& shape);
py::tuple to_tuple(const Shape& shape);

// A tensor without a graph, or None if it is undefined.
inline py::object to_python(const Tensor& tensor) {
  return tensor.defined() ? py::cast(Variable(tensor)) : py::none();
}

// f(2, 3) and f((2, 3)): the shape of a call's positional arguments.
Shape shape_of(const py::args& dims);
Device to_device(const py::object& device);  // "cpu", "cuda", "cuda:1", or a Device

// Lists of inputs and outputs, in which None stands for an undefined Variable.
using OptionalVariables = std::vector<std::optional<Variable>>;

inline std::vector<Variable> from_optional(const OptionalVariables& list) {
  std::vector<Variable> all;
  for (const auto& one : list) all.push_back(one.value_or(Variable()));
  return all;
}
inline OptionalVariables to_optional(const std::vector<Variable>& list) {
  OptionalVariables all;
  for (const Variable& one : list) all.push_back(one.defined() ? std::optional(one) : std::nullopt);
  return all;
}

// A number of Python or NumPy, and no tensor.
bool is_number(py::handle value);
// Sets all elements to it. A whole number reaches whole numbers as it is, however large.
void fill_with(const Tensor& target, py::handle number);

}  // namespace lockstep::python

namespace pybind11::detail {

template <>
struct type_caster<lockstep::Shape> {
  PYBIND11_TYPE_CASTER(lockstep::Shape, const_name("tuple[int, ...]"));
  bool load(handle source, bool) { return lockstep::python::load_shape(source, value); }
  static handle cast(const lockstep::Shape& shape, return_value_policy, handle) {
    return lockstep::python::to_tuple(shape).release();
  }
};

}  // namespace pybind11::detail
