// Connects the kernel sources (one object per instruction set) to code that is compiled once.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"

namespace lockstep::cpu {

// parallel_for without std::function.
void run_pieces(int64_t pieces, void (*body)(const void* context, int64_t piece),
                const void* context);

// Calls f(piece) for each piece, on several threads.
template <typename F>
static inline void for_pieces(int64_t pieces, const F& f) {
  if (pieces == 1) return f(0);
  run_pieces(
      pieces, [](const void* context, int64_t piece) { (*static_cast<const F*>(context))(piece); },
      &f);
}
// Calls f(begin, end) for ranges of at most `grain` out of [0, n).
template <typename F>
static inline void for_ranges(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  for_pieces((n + grain - 1) / grain,
             [&](int64_t i) { f(i * grain, (i + 1) * grain < n ? (i + 1) * grain : n); });
}

// Working memory of this thread, 64-byte aligned, kept from call to call. Each slot is one buffer.
// A request may move it.
enum class Scratch { packed_a, packed_b, tile, partial, rows };
void* scratch(Scratch slot, size_t bytes);
template <typename T>
static inline T* scratch_of(Scratch slot, int64_t count) {
  return static_cast<T*>(scratch(slot, static_cast<size_t>(count) * sizeof(T)));
}

[[noreturn]] void unsupported_dtype(const char* kernel, DType dtype);

// Elements of an elementwise piece: enough that handing it to a thread costs nothing.
inline constexpr int64_t kElementwiseGrain = 32768;

}  // namespace lockstep::cpu
