// Whether a process of this host stands still, and why. Other hosts cannot tell such a rank from a
// slow one.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

namespace lockstep::launcher {

enum class Standstill {
  none,
  stopped,  // SIGSTOP or Ctrl-Z (state T)
  // Held by a debugger (state t). Every event that the debugger wants to see also takes a moment.
  traced,
  frozen,  // by the freezer of its control group
  // Waits for the kernel (state D). A read from a disk also takes a moment.
  kernel,
};

struct ProcessLook {
  Standstill still = Standstill::none;
  uint64_t cpu_ticks = 0;  // of all its threads so far
  // For a frozen process, the command that thaws it. Empty if it cannot be seen from here.
  std::string thaw = {};
};
ProcessLook look_at(pid_t pid);

// What a stalled process does: "is stopped (state T)", "is frozen by its control group". Empty for
// Standstill::none.
std::string to_text(Standstill still);

}  // namespace lockstep::launcher
