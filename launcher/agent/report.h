// The words about a failure.
#pragma once

#include <string>
#include <vector>

#include "launcher/base/failure.h"
#include "launcher/base/root_cause.h"

namespace lockstep::launcher {

struct FailureContext {
  double after_seconds = 0;         // since the ranks were started
  std::string log_file;             // of the rank to blame; empty: none here
  std::vector<std::string> others;  // other_ends()
  // A restart was left, but the job was asked to stop: nobody will use what ranks kept in memory.
  bool memory_lost = false;
};

// What became of the other ranks of this host, in lines of their own; ranks of which the same is to
// be said share one: "ranks 0, 2 and 3: ended by the launcher". Who gives the failure's reason
// again: "ranks 1 to 4: exit code 2, later, for the same reason".
std::vector<std::string> other_ends(const std::vector<RankEnd>& ends, const Failure& failure);

// Several lines, for people.
std::string failure_box(const Failure& failure, const FailureContext& context);

// What may be behind a death by `signal`; empty where the signal says it all. `oom_kills`: see
// oom_kill_count(), since the start.
std::string signal_hint(int signal, long oom_kills);
// How often the kernel of this machine has killed a process because memory ran out; -1 where it
// does not say.
long oom_kill_count();

}  // namespace lockstep::launcher
