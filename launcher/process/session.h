// Sessions: each rank leads one of its own, so that all of its descendants can be found and ended.
#pragma once

#include <sys/types.h>

namespace lockstep::launcher {

// Sends `signal` to every process of the session, also to those that made process groups of their
// own (as interactive shells do). Only a process that began another session escapes. Returns how
// many there were, not counting those that are dead already. Async-signal-safe: the guardian uses
// it after a fork without exec.
int signal_session(pid_t session, int signal);

}  // namespace lockstep::launcher
