// Gate: stops whoever touches a tensor until the test lets it go on. So a test can hold a copy in
// its middle, for as long as it likes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/tensor/tensor.h"

namespace lockstep::test {

// One at a time in a process. It shuts the whole pages of the tensor, which must have one, for this
// process; other processes that share the memory can reach it. System calls are not stopped: they
// fail.
class Gate {
 public:
  explicit Gate(const Tensor& tensor) {
    const auto at = reinterpret_cast<uintptr_t>(tensor.raw());
    const uintptr_t first = (at + kPage - 1) / kPage * kPage;
    const uintptr_t last = (at + static_cast<size_t>(tensor.bytes())) / kPage * kPage;
    check(first < last, "[gate] expected a tensor of some pages, got ", tensor.bytes(), " bytes");
    state() = {};
    state().begin = first;
    state().end = last;
    struct sigaction action {};
    action.sa_sigaction = on_touch;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &before_);
    set(PROT_NONE);
  }
  ~Gate() {
    open();
    ::sigaction(SIGSEGV, &before_, nullptr);
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Waits until a thread stands at the gate. False if none comes within a minute.
  bool reached() const {
    const Deadline limit = Deadline::after(std::chrono::seconds(60));
    while (!state().reached && !limit.passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return state().reached;
  }
  void open() {
    set(PROT_READ | PROT_WRITE);
    state().open = true;
  }

 private:
  static constexpr uintptr_t kPage = 4096;
  struct State {
    std::atomic<uintptr_t> begin = 0, end = 0;
    std::atomic<bool> reached = false, open = false;
    void operator=(const State&) {
      begin = end = 0;
      reached = open = false;
    }
  };
  static State& state() {
    static State instance;
    return instance;
  }
  static void set(int protection) {
    if (::mprotect(reinterpret_cast<void*>(state().begin.load()), state().end - state().begin,
                   protection) != 0)
      throw EnvironmentError("[gate] mprotect: " + errno_text(errno));
  }
  static void on_touch(int, siginfo_t* info, void*) {
    State& gate = state();
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    if (at < gate.begin || at >= gate.end) {
      ::signal(SIGSEGV, SIG_DFL);  // a fault of the program, which tries again
      return;
    }
    gate.reached = true;
    const timespec moment{0, 1'000'000};
    while (!gate.open) ::nanosleep(&moment, nullptr);
  }

  struct sigaction before_ {};
};

}  // namespace lockstep::test
