// DType and Device.
#include <pybind11/operators.h>

#include "core/base/dtype.h"
#include "core/device/device.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"

namespace lockstep::python {

void bind_types(py::module_& m) {
  py::enum_<DType>(m, "DType", "The type of a tensor's elements.")
      .value("float32", DType::f32)
      .value("bfloat16", DType::bf16)
      .value("float16", DType::f16)
      .value("int64", DType::i64)
      .value("int32", DType::i32)
      .value("uint8", DType::u8)
      .value("bool", DType::boolean)
      .def_property_readonly(
          "itemsize", [](DType dtype) { return size_of(dtype); }, "Bytes of an element.")
      .def_property_readonly("is_floating_point", [](DType dtype) { return is_floating(dtype); });
  py::class_<Device>(m, "Device", "Where a tensor's memory is: 'cpu' or 'cuda:N'.")
      .def(py::init([](const py::object& device) { return to_device(device); }), py::arg("device"))
      .def_property_readonly(
          "type", [](const Device& d) { return d.type == DeviceType::cpu ? "cpu" : "cuda"; })
      .def_property_readonly("index", [](const Device& d) { return d.index; })
      .def("__str__", [](const Device& d) { return str(d); })
      .def("__repr__", [](const Device& d) { return str("lockstep.Device('", d, "')"); })
      .def("__hash__", [](const Device& d) { return 64 * static_cast<int>(d.type) + d.index; })
      .def("__eq__", [](const Device& d, const py::object& other) {
        if (py::isinstance<py::str>(other)) return str(d) == other.cast<std::string>();
        return py::isinstance<Device>(other) && d == other.cast<Device>();
      });
  m.def("device_count",
        [](const std::string& type) { return device_count(to_device(py::str(type)).type); });
}

}  // namespace lockstep::python
