#include "python/bindings/casts.h"

#include <cstdlib>

namespace lockstep::python {

bool load_shape(py::handle source, Shape& shape) {
  if (!PyTuple_Check(source.ptr()) && !PyList_Check(source.ptr())) return false;
  Shape read;
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(source)) {
    if (PyBool_Check(item.ptr()) || !PyIndex_Check(item.ptr())) return false;
    const Py_ssize_t number = PyNumber_AsSsize_t(item.ptr(), PyExc_OverflowError);
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    read.push_back(number);
  }
  shape = read;
  return true;
}

py::tuple to_tuple(const Shape& shape) {
  py::tuple dims(static_cast<size_t>(shape.size()));
  for (int i = 0; i < shape.size(); ++i) dims[static_cast<size_t>(i)] = shape[i];
  return dims;
}

Shape shape_of(const py::args& dims) {
  Shape shape;
  const py::handle given =
      dims.size() == 1 && !PyIndex_Check(dims[0].ptr()) ? py::handle(dims[0]) : py::handle(dims);
  if (!load_shape(given, shape))
    throw py::type_error("expected whole numbers or one tuple of them as the shape, got " +
                         std::string(py::repr(dims)));
  return shape;
}

Device to_device(const py::object& device) {
  if (py::isinstance<Device>(device)) return device.cast<Device>();
  if (!py::isinstance<py::str>(device))
    throw py::type_error("expected a device such as 'cpu' or 'cuda:0', got " +
                         std::string(py::repr(device)));
  const auto text = device.cast<std::string>();
  if (text == "cpu") return kCpu;
  if (text == "cuda") return {DeviceType::cuda, 0};
  const bool numbered = text.size() > 5 && text.size() < 9 && text.rfind("cuda:", 0) == 0 &&
                        text.find_first_not_of("0123456789", 5) == std::string::npos;
  check(numbered, "[device] expected 'cpu', 'cuda' or 'cuda:N', got '", text, "'");
  return {DeviceType::cuda, std::atoi(text.c_str() + 5)};
}

bool is_number(py::handle value) {
  return PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr()) ||
         (PyIndex_Check(value.ptr()) && !py::isinstance<Variable>(value)) ||
         (py::hasattr(value, "dtype") && !py::isinstance<Variable>(value) &&
          py::hasattr(value, "ndim") && py::object(value.attr("ndim")).equal(py::int_(0)));
}

void fill_with(const Tensor& target, py::handle number) {
  if (target.dtype() == DType::i64 && PyIndex_Check(number.ptr()) != 0) {
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(number.ptr()));
    if (!whole) throw py::error_already_set();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
    check(overflow == 0, "[fill_] ", std::string(py::str(whole)), " is not a value of ",
          target.dtype());
    target.copy_(Tensor::from(std::vector<int64_t>{value}, Shape{}).to(target.device()));
  } else {
    target.fill_(py::float_(py::reinterpret_borrow<py::object>(number)).cast<double>());
  }
}

}  // namespace lockstep::python
