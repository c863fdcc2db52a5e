// Whether a call of some group of this process has failed. Its ranks may have lost each other then,
// so the end of the process must not wait for them long (comm/mpi/runtime.cpp).
#pragma once

#include <atomic>

namespace lockstep::comm {

inline std::atomic<bool>& failure_noted() {
  static std::atomic<bool> noted = false;
  return noted;
}
inline void note_failure() { failure_noted().store(true, std::memory_order_relaxed); }

}  // namespace lockstep::comm
