// Tensors from Python's numbers and from memory of others, and their memory for others: the buffer
// protocol, NumPy and DLPack.
#include <cstring>
#include <limits>
#include <optional>

#include <dlpack/dlpack.h>
#include <pybind11/numpy.h>

#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/errors.h"
#include "python/bindings/guard.h"
#include "python/bindings/tensor.h"

namespace lockstep::python {
namespace {

constexpr uint8_t kDlBool = 6;  // since DLPack 0.8

// Memory of somebody else, as far as strides reach.
struct Foreign {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape = {}, strides = {};  // in elements
};

// A tensor over that memory. `release` lets it go.
Tensor wrap(const Foreign& memory, Device device, std::function<void()> release) {
  int64_t last = 0;  // the element that lies farthest
  bool empty = false;
  for (int i = 0; i < memory.shape.size(); ++i) {
    check(memory.shape[i] >= 0, "[from memory] expected sizes of 0 or more, got ", memory.shape);
    empty = empty || memory.shape[i] == 0;
    check(memory.strides[i] >= 0 || memory.shape[i] < 2,
          "[from memory] strides below 0 (of an array that runs backwards) are not possible: copy "
          "it first");
    if (memory.shape[i] > 1) last += memory.strides[i] * (memory.shape[i] - 1);
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.data);
  check(empty || address % static_cast<uintptr_t>(size_of(memory.dtype)) == 0,
        "[from memory] the elements are not aligned: copy the array first");
  const int64_t bytes = empty ? 0 : (last + 1) * size_of(memory.dtype);
  auto storage = std::make_shared<Storage>(memory.data, static_cast<size_t>(bytes), device,
                                           std::move(release));
  Shape strides = memory.strides;
  for (int i = 0; i < strides.size(); ++i)
    if (memory.shape[i] < 2) strides[i] = 0;
  if (empty) return Tensor::wrap(storage, memory.shape, memory.dtype);
  return Tensor::wrap(storage, {last + 1}, memory.dtype).as_strided(memory.shape, strides, 0);
}

std::optional<DType> dtype_of_format(std::string format, Py_ssize_t size) {
  if (!format.empty() && (format[0] == '@' || format[0] == '=' || format[0] == '<'))
    format.erase(0, 1);
  if (format.size() != 1) return std::nullopt;
  switch (format[0]) {
    case 'f': return DType::f32;
    case 'e': return DType::f16;
    case '?': return DType::boolean;
    case 'B': return DType::u8;
    case 'l':
    case 'q': return size == 8 ? std::optional(DType::i64) : DType::i32;
    case 'i': return DType::i32;
    default: return std::nullopt;
  }
}

// A Py_buffer of an object, released with the GIL.
std::shared_ptr<Py_buffer> buffer_of(const py::object& object, int flags) {
  auto* view = new Py_buffer;
  if (PyObject_GetBuffer(object.ptr(), view, flags) != 0) {
    delete view;
    throw py::error_already_set();
  }
  return {view, [](Py_buffer* held) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            PyBuffer_Release(held);
            delete held;
          }};
}

Foreign described(const Py_buffer& view, const std::optional<DType>& dtype) {
  const std::string format = view.format != nullptr ? view.format : "B";
  if (!dtype)
    throw UnsupportedType(
        str("[from memory] there is no dtype for elements of the format '", format, "' of ",
            view.itemsize, " bytes: expected float32, float16, int64, int32, uint8 or bool; ",
            format == "d" ? "convert with array.astype('float32')" : "convert the array first"));
  Foreign memory{.data = view.buf, .dtype = *dtype};
  for (int i = 0; i < view.ndim; ++i) {
    memory.shape.push_back(view.shape[i]);
    check(view.shape[i] < 2 || view.strides[i] % view.itemsize == 0,
          "[from memory] the strides are not multiples of the elements' size: copy the array");
    memory.strides.push_back(view.strides[i] / view.itemsize);
  }
  return memory;
}

Variable from_numpy(const py::object& array) {
  if (!PyObject_CheckBuffer(array.ptr()))
    throw py::type_error("[from_numpy] expected an array, got " +
                         std::string(py::str(py::type::of(array).attr("__name__"))));
  const auto view = buffer_of(array, PyBUF_STRIDED_RO | PyBUF_FORMAT);
  check(!view->readonly,
        "[from_numpy] the array is read-only, and a tensor can be written: lockstep.tensor() "
        "copies it");
  const Foreign memory = described(
      *view, dtype_of_format(view->format != nullptr ? view->format : "B", view->itemsize));
  return Variable(wrap(memory, kCpu, [view] {}));
}

// ---- tensor(data): copies ----

struct Numbers {
  std::vector<double> reals;
  std::vector<int64_t> wholes;
  bool any_real = false, all_bool = true;
  Shape shape;
};

void read_numbers(py::handle data, int depth, Numbers& numbers) {
  if (PyList_Check(data.ptr()) || PyTuple_Check(data.ptr())) {
    const auto items = py::reinterpret_borrow<py::sequence>(data);
    const auto count = static_cast<int64_t>(items.size());
    check(depth < Shape::kMaxDims, "[tensor] at most ", Shape::kMaxDims, " levels of lists");
    if (depth == numbers.shape.size() && numbers.reals.empty()) numbers.shape.push_back(count);
    check(depth < numbers.shape.size() && numbers.shape[depth] == count,
          "[tensor] expected lists of equal lengths at level ", depth);
    for (const py::handle item : items) read_numbers(item, depth + 1, numbers);
    return;
  }
  check(depth == numbers.shape.size(), "[tensor] expected numbers and lists not to mix at level ",
        depth);
  const bool is_bool = PyBool_Check(data.ptr());
  if (!is_bool && !is_number(data))
    throw py::type_error("[tensor] expected numbers, lists of numbers or an array, got " +
                         std::string(py::str(py::type::of(data).attr("__name__"))));
  numbers.all_bool = numbers.all_bool && is_bool;
  if (PyIndex_Check(data.ptr())) {
    const py::object whole = py::reinterpret_steal<py::object>(PyNumber_Index(data.ptr()));
    if (!whole) throw py::error_already_set();
    int overflow = 0;
    numbers.wholes.push_back(PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow));
    check(overflow == 0, "[tensor] ", std::string(py::str(whole)), " does not fit an int64");
    numbers.reals.push_back(static_cast<double>(numbers.wholes.back()));
  } else {
    const double real = PyFloat_AsDouble(data.ptr());
    if (real == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    numbers.any_real = true;
    numbers.reals.push_back(real);
    numbers.wholes.push_back(0);
  }
}

Tensor from_numbers(const py::object& data, std::optional<DType> dtype) {
  Numbers numbers;
  read_numbers(data, 0, numbers);
  const bool any = !numbers.reals.empty();
  const DType natural = !any || numbers.any_real ? DType::f32
                        : numbers.all_bool       ? DType::boolean
                                                 : DType::i64;
  const DType wanted = dtype.value_or(natural);
  if (!numbers.any_real && any) return Tensor::from(numbers.wholes, numbers.shape).to(wanted);
  if (wanted == DType::i64 || wanted == DType::i32 || wanted == DType::u8) {
    std::vector<int64_t> cut;
    for (const double real : numbers.reals) {
      check(real > -0x1p63 && real < 0x1p63, "[tensor] ", real, " is not a value of ", wanted);
      cut.push_back(static_cast<int64_t>(real));
    }
    return Tensor::from(cut, numbers.shape).to(wanted);
  }
  const std::vector<float> floats(numbers.reals.begin(), numbers.reals.end());
  return Tensor::from(floats, numbers.shape).to(wanted);
}

Tensor from_buffer(const py::object& array, std::optional<DType> dtype) {
  const auto view = buffer_of(array, PyBUF_STRIDED_RO | PyBUF_FORMAT);
  const std::string format = view->format != nullptr ? view->format : "B";
  if (format == "d" && dtype == DType::f32)
    return from_buffer(array.attr("astype")("float32"), dtype);
  const Tensor tensor =
      wrap(described(*view, dtype_of_format(format, view->itemsize)), kCpu, [view] {});
  const Tensor copy = tensor.clone();
  return dtype ? copy.to(*dtype) : copy;
}

Variable make_tensor(const py::object& data, std::optional<DType> dtype, const py::object& device,
                     bool requires_grad) {
  Tensor made;
  if (py::isinstance<Variable>(data)) {
    const Tensor& from = data.cast<const Variable&>().data();
    made = dtype && *dtype != from.dtype() ? from.to(*dtype) : from.clone();
  } else if (PyObject_CheckBuffer(data.ptr()) && !PyBytes_Check(data.ptr())) {
    made = from_buffer(data, dtype);
  } else {
    made = from_numbers(data, dtype);
  }
  const Device target = to_device(device);
  if (made.device() != target) {
    check(is_available(target), "[tensor] there is no device ", target);
    made = made.to(target);
  }
  return Variable(made, requires_grad);
}

// ---- a tensor's memory for others ----

// What others may keep a pointer to.
const Tensor& lendable(const char* call, const Variable& x) {
  check(!x.requires_grad(), "[", call, "] ", x.data(),
        " requires a gradient, which nobody else would record: use .detach()");
  check(x.data().storage()->why_absent().empty(), "[", call, "] the memory of ", x.data(),
        " comes and goes (", x.data().storage()->why_absent(), "): use .detach().clone()");
  return x.data();
}

std::string format_of(const char* call, DType dtype) {
  switch (dtype) {
    case DType::f32: return "f4";
    case DType::f16: return "f2";
    case DType::i64: return "i8";
    case DType::i32: return "i4";
    case DType::u8: return "u1";
    case DType::boolean: return "?";
    case DType::bf16: break;
  }
  throw UnsupportedType(
      str("[", call, "] NumPy has no type for bfloat16: convert with .to(lockstep.float32)"));
}

py::array to_numpy(const Variable& x) {
  const Tensor& tensor = lendable("numpy", x);
  check(tensor.device() == kCpu, "[numpy] the values are on ", tensor.device(),
        ": use .to('cpu').numpy()");
  std::vector<py::ssize_t> shape, strides;
  bool repeats = false;
  for (int i = 0; i < tensor.dim(); ++i) {
    shape.push_back(tensor.shape()[i]);
    strides.push_back(tensor.strides()[i] * size_of(tensor.dtype()));
    repeats = repeats || (tensor.strides()[i] == 0 && tensor.shape()[i] > 1);
  }
  py::array array(py::dtype(format_of("numpy", tensor.dtype())), shape, strides, tensor.raw(),
                  py::cast(Variable(tensor)));
  if (repeats) array.attr("setflags")(py::arg("write") = false);
  return array;
}

struct Lent {
  DLManagedTensor managed;
  Tensor tensor;
  Shape shape, strides;
};

DLDataType dl_type(DType dtype) {
  const auto bits = static_cast<uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case DType::f32:
    case DType::f16: return {kDLFloat, bits, 1};
    case DType::bf16: return {kDLBfloat, bits, 1};
    case DType::i64:
    case DType::i32: return {kDLInt, bits, 1};
    case DType::u8: return {kDLUInt, bits, 1};
    case DType::boolean: return {kDlBool, bits, 1};
  }
  throw UsageError("[dlpack] unknown dtype");
}

DLDevice dl_device(Device device) {
  return {device.type == DeviceType::cpu ? kDLCPU : kDLCUDA, device.index};
}

void drop_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;  // its memory belongs to who took it
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->deleter(managed);
}

py::capsule to_dlpack(const Variable& x, const py::object& /*stream*/) {
  const Tensor& tensor = lendable("__dlpack__", x);
  auto lent = std::make_unique<Lent>(Lent{{}, tensor, tensor.shape(), tensor.strides()});
  DLTensor& view = lent->managed.dl_tensor;
  view = {.data = tensor.raw(),
          .device = dl_device(tensor.device()),
          .ndim = tensor.dim(),
          .dtype = dl_type(tensor.dtype()),
          .shape = const_cast<int64_t*>(lent->shape.begin()),
          .strides = const_cast<int64_t*>(lent->strides.begin()),
          .byte_offset = 0};
  lent->managed.manager_ctx = lent.get();
  lent->managed.deleter = [](DLManagedTensor* self) {
    delete static_cast<Lent*>(self->manager_ctx);
  };
  if (tensor.device() != kCpu) {
    const Released released;
    current_queue(tensor.device()).synchronize();
  }
  return py::capsule(&lent.release()->managed, "dltensor", &drop_capsule);
}

std::optional<DType> dtype_of_dl(const DLDataType& type) {
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::boolean}) {
    const DLDataType known = dl_type(dtype);
    if (known.code == type.code && known.bits == type.bits && type.lanes == 1) return dtype;
  }
  return std::nullopt;
}

Variable from_dlpack(const py::object& source) {
  if (!py::hasattr(source, "__dlpack__") || !py::hasattr(source, "__dlpack_device__"))
    throw py::type_error("[from_dlpack] expected an object with __dlpack__(), got " +
                         std::string(py::str(py::type::of(source).attr("__name__"))));
  const py::object capsule = source.attr("__dlpack__")();
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  const DLTensor& view = managed->dl_tensor;
  const auto dtype = dtype_of_dl(view.dtype);
  if (!dtype)
    throw UnsupportedType(str("[from_dlpack] there is no dtype for elements of code ",
                              int{view.dtype.code}, " and ", int{view.dtype.bits}, " bits"));
  check(view.device.device_type == kDLCPU || view.device.device_type == kDLCUDA,
        "[from_dlpack] expected memory of a CPU or a CUDA device, got DLPack's device type ",
        int{view.device.device_type});
  const Device device =
      view.device.device_type == kDLCPU ? kCpu : Device{DeviceType::cuda, view.device.device_id};
  check(is_available(device), "[from_dlpack] there is no device ", device);
  Foreign memory{.data = static_cast<std::byte*>(view.data) + view.byte_offset, .dtype = *dtype};
  memory.shape = Shape(std::span<const int64_t>(view.shape, static_cast<size_t>(view.ndim)));
  memory.strides =
      view.strides == nullptr
          ? memory.shape.contiguous_strides()
          : Shape(std::span<const int64_t>(view.strides, static_cast<size_t>(view.ndim)));
  const auto held = std::make_shared<DLManagedTensor*>(nullptr);  // taken only if all goes well
  const Tensor tensor = wrap(memory, device, [held] {
    if (*held == nullptr || (*held)->deleter == nullptr || !Py_IsInitialized()) return;
    const py::gil_scoped_acquire gil;
    (*held)->deleter(*held);
  });
  *held = managed;
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  return Variable(tensor);
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("tensor", &make_tensor, py::arg("data"), py::arg("dtype") = py::none(),
        py::arg("device") = "cpu", py::arg("requires_grad") = false,
        "A new tensor with a copy of numbers, nested lists, an array or a tensor. Floats become "
        "float32, whole numbers int64, truths bool, arrays keep their type. UnsupportedType for "
        "types that lockstep lacks, such as float64.");
  m.def("from_numpy", &from_numpy, py::arg("array"),
        "A tensor over the memory of a writable NumPy array, without a copy. The array lives as "
        "long as the tensor. Call mark_changed() after writes through the array.");
  m.def("from_dlpack", &from_dlpack, py::arg("source"),
        "A tensor over the memory of an object with __dlpack__(), without a copy.");
  auto tensor = py::class_<Variable>(m.attr("Tensor"));
  tensor
      .def(
          "numpy", &to_numpy,
          "The values as a NumPy array over the same memory. CPU tensors that require no gradient; "
          "read-only if expand() made elements share memory.")
      .def(
          "__array__",
          [](const Variable& x, const py::object& dtype, const py::object& copy) -> py::object {
            const py::array array = to_numpy(x);
            const bool same = dtype.is_none() || array.dtype().equal(dtype);
            if (!copy.is_none() && !copy.cast<bool>() && !same)
              throw py::value_error("[__array__] a conversion needs a copy");
            if (!same) return array.attr("astype")(dtype);
            return !copy.is_none() && copy.cast<bool>() ? array.attr("copy")() : py::object(array);
          },
          py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack__", &to_dlpack, py::arg("stream") = py::none())
      .def("__dlpack_device__", [](const Variable& x) {
        const DLDevice device = dl_device(x.device());
        return py::make_tuple(static_cast<int>(device.device_type), device.device_id);
      });
}

}  // namespace lockstep::python
