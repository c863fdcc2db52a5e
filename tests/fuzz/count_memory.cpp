// Counts what operator new hands out, so that a fuzz target can tell an allocation that its input
// does not justify.
#include "tests/fuzz/fuzz.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKSTEP_COUNTS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define LOCKSTEP_COUNTS 0
#endif
#endif
#ifndef LOCKSTEP_COUNTS
#define LOCKSTEP_COUNTS 1
#endif

#if LOCKSTEP_COUNTS

#include <cstdlib>
#include <new>

#include <malloc.h>

namespace {

// Targets run on one thread.
int64_t now = 0, peak = 0;

}  // namespace

void* operator new(size_t bytes) {
  void* memory = std::malloc(bytes);
  if (!memory) throw std::bad_alloc();
  now += static_cast<int64_t>(malloc_usable_size(memory));
  if (now > peak) peak = now;
  return memory;
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void operator delete(void* memory) noexcept {
  if (memory) now -= static_cast<int64_t>(malloc_usable_size(memory));
  std::free(memory);
}
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory, size_t) noexcept { operator delete(memory); }

namespace lockstep::fuzz {

void reset_peak() { now = peak = 0; }
size_t peak_bytes() { return static_cast<size_t>(peak); }

}  // namespace lockstep::fuzz

#else

namespace lockstep::fuzz {

void reset_peak() {}
size_t peak_bytes() { return 0; }

}  // namespace lockstep::fuzz

#endif
