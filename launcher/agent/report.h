// The words about a failure.
#pragma once

#include <string>
#include <vector>

#include "launcher/launch.h"

namespace lockstep::launcher {

struct FailureContext {
  double after_seconds = 0;         // since the ranks were started
  std::string log_file;             // of the rank to blame; empty: none here
  std::vector<std::string> others;  // one line per other rank of this host
};

// "rank 1 on host a (pid 17): killed by SIGKILL (signal 9)"; for a lost node its reason.
std::string headline(const Failure& failure);
// Several lines, for people.
std::string failure_box(const Failure& failure, const FailureContext& context);

// What may be behind a death by `signal`; empty where the signal says it all. `oom_kills`: see oom_kill_count(), since the start.
std::string signal_hint(int signal, long oom_kills);
// How often the kernel of this machine has killed a process because memory ran out; -1 where it does not say.
long oom_kill_count();

}  // namespace lockstep::launcher
