// launch(): starts the ranks of a job on this host (and, together with other agents, on other
// hosts), watches them and says which one failed first. `lockstep run` and `lockstep train -n N`
// are this call.
#pragma once

#include "launcher/base/launch_spec.h"

namespace lockstep::launcher {

// Blocks until the job has ended. Handles SIGINT, SIGTERM, SIGHUP and SIGUSR1 meanwhile
// (launcher/base/stop_wish.h): the first asks the ranks to stop, a repeated one kills them; so only
// one thread of a process may be in here. Whatever becomes of this process, its ranks end with it.
// Throws UsageError for a wrong spec, a missing program or a refused rendezvous; EnvironmentError
// where the system refuses.
LaunchResult launch(const LaunchSpec& spec);

// The ranks of a node get this many threads each where OMP_NUM_THREADS is not set: usable_cores() /
// nproc, at least 1.
int threads_per_rank(int nproc);

}  // namespace lockstep::launcher
