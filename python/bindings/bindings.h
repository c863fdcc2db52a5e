// One function for each part of the extension module lockstep._core.
#pragma once

#include <pybind11/pybind11.h>

namespace lockstep::python {

void bind_types(pybind11::module_& m);
void bind_tensor(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_index(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_autograd(pybind11::module_& m);
void bind_scopes(pybind11::module_& m);
void bind_nn(pybind11::module_& m);
void bind_optim(pybind11::module_& m);
void bind_comm(pybind11::module_& m);
void bind_parallel(pybind11::module_& m);
void bind_checkpoint(pybind11::module_& m);
void bind_data(pybind11::module_& m);

}  // namespace lockstep::python
