#include "core/device/cuda/sim/fiber.h"

#include <cstdint>
#include <cstring>

#if defined(LOCKSTEP_SIM_ASAN)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(LOCKSTEP_SIM_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
}
#endif

// void lockstep_sim_switch(void** from, void* to): saves the registers that a call keeps, and the
// stack pointer in *from, and goes on where `to` was saved.
#if defined(__x86_64__)
extern "C" void lockstep_sim_switch(void** from, void* to);
asm(R"(
.text
.globl lockstep_sim_switch
.hidden lockstep_sim_switch
.type lockstep_sim_switch, @function
.p2align 4
lockstep_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lockstep_sim_switch, . - lockstep_sim_switch
)");
#endif

namespace lockstep::cuda::sim {

void Context::adopt_thread() {
#if defined(LOCKSTEP_SIM_ASAN)
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &stack_bytes_);
  pthread_attr_destroy(&attributes);
  stack_ = stack;
#endif
#if defined(LOCKSTEP_SIM_TSAN)
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
}

void Context::create(char* stack, size_t bytes, void (*entry)()) {
  stack_ = stack;
  stack_bytes_ = bytes;
#if defined(LOCKSTEP_SIM_TSAN)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
  // entry() finds the stack as after a call: aligned to 16 once the return address is off it. That
  // address is null, where unwinding ends.
  constexpr int kSavedRegisters = 6;
  const auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15};
  void** words = reinterpret_cast<void**>(top);
  *--words = nullptr;
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--words = nullptr;
  stack_pointer_ = words;
#else
  getcontext(&place_);
  place_.uc_stack.ss_sp = stack;
  place_.uc_stack.ss_size = bytes;
  place_.uc_link = nullptr;
  makecontext(&place_, entry, 0);
#endif
}

LOCKSTEP_SIM_NO_TSAN void Context::enter() {
#if defined(LOCKSTEP_SIM_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

LOCKSTEP_SIM_NO_TSAN void Context::switch_to(Context& to) {
#if defined(LOCKSTEP_SIM_ASAN)
  __sanitizer_start_switch_fiber(&fake_stack_, to.stack_, to.stack_bytes_);
#endif
#if defined(LOCKSTEP_SIM_TSAN)
  constexpr unsigned kNoSync = 1;
  __tsan_switch_to_fiber(to.tsan_fiber_, kNoSync);
#endif
#if defined(__x86_64__)
  lockstep_sim_switch(&stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&place_, &to.place_);
#endif
#if defined(LOCKSTEP_SIM_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace lockstep::cuda::sim
