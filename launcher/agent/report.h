// Texts about a failure.
#pragma once

#include <string>
#include <vector>

#include "launcher/base/failure.h"
#include "launcher/base/root_cause.h"

namespace lockstep::launcher {

struct FailureContext {
  double after_seconds = 0;         // since the ranks were started
  std::string log_file;             // of the rank to blame; empty: none on this host
  std::vector<std::string> others;  // other_ends()
  // A restart was left, but the job was asked to stop. What ranks kept in memory is lost.
  bool memory_lost = false;
};

// What happened to the other ranks of this host, one line each. Ranks with the same text share a
// line: "ranks 0, 2 and 3: ended by the launcher". Ranks that report the reason of `failure` again:
// "ranks 1 to 4: exit code 2, later, for the same reason".
std::vector<std::string> other_ends(const std::vector<RankEnd>& ends, const Failure& failure);

// Several lines, for people.
std::string failure_box(const Failure& failure, const FailureContext& context);

// What may have caused a death by `signal`. Empty if the signal explains itself. `oom_kills`: how
// much oom_kill_count() has grown since the start.
std::string signal_hint(int signal, long oom_kills);
// How many processes the kernel of this machine has killed because memory ran out. -1 if it does
// not tell.
long oom_kill_count();

}  // namespace lockstep::launcher
