#include "python/bindings/guard.h"

#include <atomic>
#include <cstring>
#include <exception>

#include "core/base/error.h"

namespace lockstep::python {
namespace {

std::atomic<bool> forked{false};

// The exception of a signal handler that ended a wait of this thread. Null: none.
thread_local PyObject* t_type = nullptr;
thread_local PyObject* t_value = nullptr;
thread_local PyObject* t_traceback = nullptr;

// As a pending call: the interpreter raises what it returns.
int raise_interrupt(void*) { return restore_interrupt() ? -1 : 0; }

}  // namespace

void note_fork() { forked = true; }

void check_not_forked() {
  check(!forked.load(std::memory_order_relaxed),
        "[python] this process was forked from one that uses lockstep, and has none of its threads "
        "and groups: start it with multiprocessing's 'spawn' method, or with subprocess");
}

bool restore_interrupt() {
  if (t_type == nullptr) return false;
  PyErr_Restore(std::exchange(t_type, nullptr), std::exchange(t_value, nullptr),
                std::exchange(t_traceback, nullptr));
  return true;
}

Released::Entry::Entry() { check_not_forked(); }

// A call may come to a good end although a handler has raised.
Released::Entry::~Entry() {
  if (t_type != nullptr && std::uncaught_exceptions() == 0)
    Py_AddPendingCall(&raise_interrupt, nullptr);
}

bool Released::asks_python() {
  const py::gil_scoped_acquire gil;
  if (t_type != nullptr) return true;
  if (PyErr_CheckSignals() == 0) return false;
  PyErr_Fetch(&t_type, &t_value, &t_traceback);
  return true;
}

void zero_unconstructed(const py::handle& type) {
  auto* const info = py::detail::get_type_info(reinterpret_cast<PyTypeObject*>(type.ptr()));
  info->operator_new = [](size_t bytes) { return std::memset(::operator new(bytes), 0, bytes); };
}

}  // namespace lockstep::python
