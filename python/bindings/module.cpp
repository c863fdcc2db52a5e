// lockstep._core: what python/lockstep is built on. Users import lockstep.
#include <pybind11/pybind11.h>

#include "core/base/log.h"
#include "python/bindings/bindings.h"
#include "python/bindings/errors.h"
#include "python/bindings/guard.h"

PYBIND11_MODULE(_core, m) {
  using namespace lockstep::python;
  m.doc() = "The part of lockstep that is written in C++. Import lockstep instead.";
  install_errors();
  lockstep::log::set_level_from_environment();
  m.def("note_fork", &note_fork);
  bind_types(m);
  bind_tensor(m);
  bind_memory(m);
  bind_index(m);
  bind_ops(m);
  bind_autograd(m);
  bind_scopes(m);
  bind_nn(m);
  bind_optim(m);
  bind_comm(m);
  bind_parallel(m);
  bind_checkpoint(m);
  bind_data(m);
}
