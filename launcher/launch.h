// launch(): starts the ranks of a job on this host, watches them, and tells which rank failed
// first. With agents on other hosts it runs a job of several hosts. `lockstep run` and `lockstep
// train -n N` call it.
#pragma once

#include "launcher/base/launch_spec.h"

namespace lockstep::launcher {

// Blocks until the job has ended. Handles SIGINT, SIGTERM, SIGHUP and SIGUSR1 meanwhile
// (launcher/base/stop_wish.h): the first request asks the ranks to stop, a repeated one kills them.
// Therefore only one thread of a process may call this. However this process ends, its ranks end
// with it.
//
// Throws UsageError for a wrong spec, a missing program or a refused rendezvous, and
// EnvironmentError if the system refuses something.
LaunchResult launch(const LaunchSpec& spec);

// Threads of each rank if OMP_NUM_THREADS is not set: usable_cores() / nproc, at least 1.
int threads_per_rank(int nproc);

}  // namespace lockstep::launcher
