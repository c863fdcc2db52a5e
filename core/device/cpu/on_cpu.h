// Makes entries of the kernel table from a CPU's functions, which need no queue: their work is done
// when they return.
#pragma once

#include "core/device/queue.h"

namespace lockstep::cpu {
namespace {  // each instruction set gets its own

template <auto function>
struct OnCpu;
template <class... Args, void (*function)(Args...)>
struct OnCpu<function> {
  static void run(const Queue&, Args... args) { function(args...); }
};

}  // namespace
}  // namespace lockstep::cpu
