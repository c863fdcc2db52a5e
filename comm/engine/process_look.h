// What a process of this host does, as /proc shows it: for reports on ranks that others wait for.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/clock.h"

namespace lockstep::comm {

struct ProcessLook {
  char state = '?';  // as ps has it: R runs, S sleeps, D waits for a device, T stopped, t traced;
                     // ?: not known
  Duration cpu{};    // processor time of all its threads so far
  bool stopped() const { return state == 'T' || state == 't'; }
};

// Nothing where the process does not exist, or is dead already.
std::optional<ProcessLook> look_at_process(int pid);

// What each of them does now: "is computing", "is idle", "waits for a device", "is stopped", "has
// ended"; "exists" where this process cannot look. Takes two looks, a moment apart.
std::vector<std::string> doings(std::span<const int> pids);

}  // namespace lockstep::comm
