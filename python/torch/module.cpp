// lockstep.torch._C: what lockstep/torch/__init__.py is made of.
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/utils/pybind.h>

#include "comm/peer_failure.h"
#include "core/base/log.h"
#include "python/torch/core.h"
#include "python/torch/errors.h"
#include "python/torch/process_group.h"
#include "python/torch/store.h"

namespace py = pybind11;

namespace lockstep::pytorch {
namespace {

// Classes of lockstep/torch/errors.py. Never destroyed: an error may come while Python ends.
struct Exceptions {
  py::object usage, type, environment, timeout;
};
Exceptions* exceptions = nullptr;

void raise(const py::object& kind, const std::exception& error) {
  PyErr_SetObject(kind.ptr(), py::str(error.what()).ptr());
}

void translate(std::exception_ptr error) {
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (const UnsupportedType& e) {
    raise(exceptions->type, e);
  } catch (const UsageError& e) {
    raise(exceptions->usage, e);
  } catch (const TimeoutError& e) {
    raise(exceptions->timeout, e);
  } catch (const Error& e) {
    raise(exceptions->environment, e);
  }
}

// "world", or "2 (ranks 1 and 3)": ranks in messages count within the group.
std::string name_of(const c10d::DistributedBackendOptions& options) {
  const auto& ranks = options.global_ranks_in_group;
  if (ranks.empty()) return "world";
  std::string name = str(options.group_id, " (global ranks");
  for (size_t i = 0; i < ranks.size(); ++i) name += str(i == 0 ? " " : ", ", ranks[i]);
  return name + ")";
}

c10::intrusive_ptr<c10d::ProcessGroup> create(const c10d::DistributedBackendOptions& options,
                                              const Settings& settings) {
  log::set_level_from_environment();
  const auto limit = std::chrono::duration_cast<Duration>(options.timeout);
  if (options.global_ranks_in_group.empty()) log::set_identity(str("rank ", options.group_rank));
  try {
    return c10::make_intrusive<ProcessGroup>(Core::create(over(options.store), options.group_rank,
                                                          options.group_size, name_of(options),
                                                          limit, settings));
  } catch (...) {
    remember_failure(std::current_exception());
    throw;
  }
}

}  // namespace
}  // namespace lockstep::pytorch

PYBIND11_MODULE(_C, m) {
  using namespace lockstep::pytorch;
  // The classes of c10d must be known before ours are.
  py::module_::import("torch.distributed");
  py::class_<Settings>(m, "Settings")
      .def(py::init<std::string, std::string>())
      .def_readonly("backend", &Settings::backend)
      .def_readonly("reduction", &Settings::reduction);
  m.def("set_exceptions",
        [](py::object usage, py::object type, py::object environment, py::object timeout) {
          exceptions = new Exceptions{std::move(usage), std::move(type), std::move(environment),
                                      std::move(timeout)};
          py::register_exception_translator(&translate);
        });
  m.def("create", &create, py::call_guard<py::gil_scoped_release>());
  m.def("is_peer_failure", &is_peer_failure);
  m.def("abort_all", &abort_all, py::call_guard<py::gil_scoped_release>());
  m.def("close_all", &close_all, py::call_guard<py::gil_scoped_release>());
}
