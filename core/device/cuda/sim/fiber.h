// Fibers: several stacks on one thread, which switch by a call. AddressSanitizer and
// ThreadSanitizer are told of each switch. To ThreadSanitizer a fiber is a thread of its own, and a
// switch orders nothing.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define LOCKSTEP_SIM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LOCKSTEP_SIM_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define LOCKSTEP_SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOCKSTEP_SIM_ASAN 1
#endif
#endif

// For a function that several fibers call, and that touches what they share. One runs at a time,
// but ThreadSanitizer would call it a race.
#ifdef LOCKSTEP_SIM_TSAN
#define LOCKSTEP_SIM_NO_TSAN __attribute__((no_sanitize("thread"), noinline))
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
#define LOCKSTEP_SIM_NO_TSAN
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#endif

namespace lockstep::cuda::sim {

// A place of execution: a fiber's, or that of the thread itself.
class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // The calling thread's own. Call it before each run of fibers, on the thread that runs them.
  void adopt_thread();
  // A fiber on this stack. The first switch to it calls entry(), which never returns.
  void create(char* stack, size_t bytes, void (*entry)());
  // The first thing that entry() calls.
  static void enter();
  // Leaves this context, which is the running one, for `to`. Returns once another one switches
  // back.
  void switch_to(Context& to);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t place_;
#endif
  // What the sanitizers know of it.
  [[maybe_unused]] const void* stack_ = nullptr;
  [[maybe_unused]] size_t stack_bytes_ = 0;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* tsan_fiber_ = nullptr;
};

}  // namespace lockstep::cuda::sim
