// x[...]: NumPy's basic indexing as views, and rows by a tensor of whole numbers.
#include <optional>

#include "core/autograd/node.h"
#include "core/ops/functions.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"
#include "python/bindings/tensor.h"

namespace lockstep::python {
namespace {

// A view of a tensor of one shape and layout.
struct View {
  Shape shape, strides;
  int64_t offset = 0;

  Tensor of(const Tensor& x) const {
    return x.as_strided(shape, strides, shape.numel() == 0 ? 0 : offset);
  }
};

class Reader {
 public:
  // Strides of the dense layout, or of `x`.
  Reader(const Shape& shape, const Shape& strides) : shape_(shape), strides_(strides) {}

  View read(const py::tuple& parts) {
    int named = 0;
    for (const py::handle part : parts)
      named += part.is_none() || part.ptr() == Py_Ellipsis ? 0 : 1;
    check(named <= shape_.size(), "[index] too many indices for a tensor of shape ", shape_, ": ",
          named);
    bool dots = false;
    for (const py::handle part : parts) {
      if (part.is_none()) {
        add(1, 0);
      } else if (part.ptr() == Py_Ellipsis) {
        check(!dots, "[index] only one '...' is possible");
        dots = true;
        for (int left = shape_.size() - named; left > 0; --left, ++axis_)
          add(shape_[axis_], strides_[axis_]);
      } else if (PySlice_Check(part.ptr())) {
        slice(part);
      } else {
        element(part);
      }
    }
    for (; axis_ < shape_.size(); ++axis_) add(shape_[axis_], strides_[axis_]);
    return view_;
  }

 private:
  void add(int64_t size, int64_t stride) {
    view_.shape.push_back(size);
    view_.strides.push_back(stride);
  }

  void slice(py::handle part) {
    Py_ssize_t start = 0, stop = 0, step = 0;
    if (PySlice_Unpack(part.ptr(), &start, &stop, &step) < 0) throw py::error_already_set();
    check(step > 0,
          "[index] steps below 0 are not possible, since strides are never negative; got ", step);
    const Py_ssize_t length = PySlice_AdjustIndices(shape_[axis_], &start, &stop, step);
    view_.offset += length == 0 ? 0 : start * strides_[axis_];
    add(length, length < 2 ? 0 : step * strides_[axis_]);
    ++axis_;
  }

  void element(py::handle part) {
    if (PyBool_Check(part.ptr()) || !PyIndex_Check(part.ptr()))
      throw py::type_error(
          "[index] expected whole numbers, slices, None, '...' or one tensor of whole numbers, "
          "got " +
          std::string(py::str(py::type::of(part).attr("__name__"))));
    Py_ssize_t index = PyNumber_AsSsize_t(part.ptr(), PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) throw py::error_already_set();
    const int64_t size = shape_[axis_];
    if (index < -size || index >= size)
      throw py::index_error(
          str("[index] ", index, " is outside of dimension ", axis_, " of size ", size));
    view_.offset += (index < 0 ? index + size : index) * strides_[axis_];
    ++axis_;
  }

  const Shape& shape_;
  const Shape& strides_;
  int axis_ = 0;
  View view_;
};

py::tuple as_tuple(const py::object& key) {
  return py::isinstance<py::tuple>(key) ? key.cast<py::tuple>() : py::make_tuple(key);
}

bool is_rows(const py::object& key) {
  return py::isinstance<Variable>(key) && key.cast<const Variable&>().data().dim() > 0;
}

Variable rows(const Variable& x, const Variable& ids) {
  check(!is_floating(ids.dtype()) && ids.dtype() != DType::boolean,
        "[index] expected a tensor of whole numbers, got ", ids.data(), "; for masks use .numpy()");
  check(x.dtype() == DType::f32 && x.data().dim() > 0,
        "[index] rows by a tensor exist for float32 tensors, got ", x.data(),
        "; for others use .numpy()");
  Shape all = ids.shape();
  int64_t width = 1;
  for (int i = 1; i < x.data().dim(); ++i) {
    all.push_back(x.shape()[i]);
    width *= x.shape()[i];
  }
  const Variable table = ops::reshape(x, {x.shape()[0], width});
  return ops::reshape(ops::embedding(ids.data(), table), all);
}

Variable get(const Variable& x, const py::object& key) {
  if (is_rows(key)) {
    const auto ids = key.cast<Variable>();
    const Released released;
    return rows(x, ids);
  }
  const py::tuple parts = as_tuple(key);
  const Shape shape = x.shape();
  const View here = Reader(shape, x.data().strides()).read(parts);
  if (!detail::must_record({x})) return Variable(here.of(x.data()));
  // The gradient is dense, so backward takes the same view of another layout.
  const Shape dense_strides = shape.contiguous_strides();
  const View dense = Reader(shape, dense_strides).read(parts);
  const Tensor result = here.of(x.data());
  return record(
      "index", result, {x},
      [dense, shape, dtype = x.dtype(), device = x.device()](const Tensor& g, const Node& node) {
        const Tensor whole = Tensor::zeros(shape, dtype, device);
        dense.of(whole).copy_(g);
        node.edge(0).add(whole);
      });
}

void set(const Variable& x, const py::object& key, const py::object& value) {
  check_writable("setitem", x);
  check(!is_rows(key), "[setitem] expected whole numbers and slices as the index");
  const Shape shape = x.shape(), strides = x.data().strides();
  const Tensor target = Reader(shape, strides).read(as_tuple(key)).of(x.data());
  if (py::isinstance<Variable>(value)) {
    const auto from = value.cast<Variable>();
    check(!from.requires_grad() || !grad_enabled(),
          "[setitem] the value requires a gradient, and a change in place is not recorded: use "
          ".detach()");
    const Released released;
    // The two may overlap, as in x[1:] = x[:-1].
    const bool own = from.data().storage() == target.storage();
    target.copy_(own ? from.data().clone() : from.data());
  } else if (is_number(value)) {
    fill_with(target, value);
  } else {
    throw py::type_error("[setitem] expected a number or a tensor, got " +
                         std::string(py::str(py::type::of(value).attr("__name__"))));
  }
}

// One row after another; a row that requires a gradient is recorded.
py::iterator rows_of(const Variable& x) {
  if (x.data().dim() == 0) throw py::type_error("a tensor without dimensions has no rows");
  py::list all;
  for (int64_t i = 0; i < x.shape()[0]; ++i) all.append(get(x, py::int_(i)));
  return py::iter(all);
}

}  // namespace

void bind_index(py::module_& m) {
  auto tensor = py::class_<Variable>(m.attr("Tensor"));
  tensor
      .def(
          "__getitem__", &get, py::arg("index"),
          "A view for whole numbers, slices with steps above 0, None and '...'. A copy of rows for "
          "a tensor of whole numbers, which must be within [0, rows).")
      .def("__setitem__", &set, py::arg("index"), py::arg("value"))
      .def("__iter__", &rows_of);
}

}  // namespace lockstep::python
