// The team where memory runs out: operator new can be made to refuse, which needs a program of its
// own.
#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include <gtest/gtest.h>

#include "core/base/parallel.h"

namespace {
std::atomic<bool> refuses{false};
}

// Not inlined: the compiler would see a free() beside a new, and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  if (!refuses)
    if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace lockstep {
namespace {

TEST(ParallelFor, ComputesWithTheThreadsThereAreWhereNoMemoryIsLeft) {
  std::array<std::atomic<int>, 64> seen{};
  const std::function<void(int64_t)> count = [&seen](int64_t i) { ++seen[static_cast<size_t>(i)]; };
  set_num_threads(4);
  refuses = true;  // from here on neither a thread nor a warning can be made
  parallel_for(64, count);
  refuses = false;
  EXPECT_EQ(num_threads(), 1);
  for (const auto& times : seen) EXPECT_EQ(times, 1);
  parallel_for(64, count);
  for (const auto& times : seen) EXPECT_EQ(times, 2);
}

}  // namespace
}  // namespace lockstep
