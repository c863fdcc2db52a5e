// Whether a process of this host stands still, and why. To other hosts such a rank looks like a
// slow one.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

namespace lockstep::launcher {

enum class Standstill {
  none,
  stopped,  // SIGSTOP or Ctrl-Z (state T)
  traced,   // held by a debugger (state t); that also takes a moment at every event that the
            // debugger wants to see
  frozen,   // by the freezer of its control group
  kernel,   // waits for the kernel (state D); a read from a disk takes a moment, too
};

struct ProcessLook {
  Standstill still = Standstill::none;
  uint64_t cpu_ticks = 0;  // of all its threads so far
  // Of a frozen one: the command that lets it go on; empty where that cannot be seen from here.
  std::string thaw = {};
};
ProcessLook look_at(pid_t pid);

// What a process does that stands still: "is stopped (state T)", "is frozen by its control group".
// Empty for Standstill::none.
std::string to_text(Standstill still);

}  // namespace lockstep::launcher
