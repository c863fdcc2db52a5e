// Explains accesses to simulated device memory that fault. The first call of watch_range() installs
// a handler of SIGSEGV. For an address in a watched range it says on stderr which thread touched
// what, with a backtrace, and the program ends by SIGSEGV. All other faults go to the handler that
// was there before.
#pragma once

#include <cstddef>

namespace lockstep::cuda::sim {

// `owner`: the number of a device, or kPinnedOwner. Ranges are never taken back.
inline constexpr int kPinnedOwner = -1;
void watch_range(const char* begin, size_t bytes, int owner);

// What the calling thread executes now: the name of queued work, or nullptr.
void set_executing(const char* name);
const char* executing();

}  // namespace lockstep::cuda::sim
