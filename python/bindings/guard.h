// What every call from Python into the library passes through, and what callbacks into Python need.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include <pybind11/pybind11.h>

#include "comm/interrupt.h"

namespace lockstep::python {

namespace py = pybind11;

// For py::call_guard: the call runs without the GIL, and Ctrl-C ends its waits. In a forked child
// it throws UsageError, because a fork copies neither threads nor groups.
class Released {
 public:
  Released() : interrupts_(&asks_python) {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  // Built first and destroyed last, with the GIL.
  struct Entry {
    Entry();
    ~Entry();
  };
  static bool asks_python();

  Entry entry_;
  py::gil_scoped_release release_;
  comm::InterruptScope interrupts_;
};
using Run = py::call_guard<Released>;

// Called in the child after a fork.
void note_fork();
void check_not_forked();
// Sets the Python exception that a signal handler raised during a wait, if any. Needs the GIL.
bool restore_interrupt();

// A Python object that C++ code without the GIL may copy and drop.
class Held {
 public:
  explicit Held(py::object object)
      : object_(new py::object(std::move(object)), [](py::object* held) {
          if (!Py_IsInitialized()) return;  // the interpreter has gone, and its objects with it
          const py::gil_scoped_acquire gil;
          delete held;
        }) {}
  // Needs the GIL.
  const py::object& get() const { return *object_; }

 private:
  std::shared_ptr<py::object> object_;
};

// `object.__new__` alone leaves pybind11 with memory that nobody constructed. Zeros are an
// undefined Variable, or a wrapper that holds nothing, which say so when they are used.
void zero_unconstructed(const py::handle& type);

}  // namespace lockstep::python
