#include "python/bindings/errors.h"

#include <new>

#include <pybind11/pybind11.h>

#include "comm/peer_failure.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

// The attribute tells the hook that reports failures (python/lockstep/failures.py) who is to blame.
void raise(const char* name, const std::exception& error) {
  if (restore_interrupt()) return;
  const py::object type = py::module_::import("lockstep.errors").attr(name);
  const py::object value = type(py::str(error.what()));
  value.attr("caused_by_peer") = comm::caused_by_peer(error);
  PyErr_SetObject(type.ptr(), value.ptr());
}

void translate(std::exception_ptr error) {
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (const UnsupportedType& e) {
    raise("UnsupportedType", e);
  } catch (const UsageError& e) {
    raise("UsageError", e);
  } catch (const TimeoutError& e) {
    raise("TimeoutError", e);
  } catch (const EnvironmentError& e) {
    raise("EnvironmentError", e);
  } catch (const Error& e) {
    raise("LockstepError", e);
  }
}

}  // namespace

void install_errors() { py::register_exception_translator(&translate); }

}  // namespace lockstep::python
