// Sessions: each rank leads its own session, so that all of its descendants can be found and ended.
#pragma once

#include <sys/types.h>

namespace lockstep::launcher {

// Sends `signal` to every process of the session. This includes processes in other process groups,
// as interactive shells make them. Only a process that began another session escapes. Returns the
// number of processes, without those that are dead already. Async-signal-safe: the guardian calls
// it after a fork without exec.
int signal_session(pid_t session, int signal);

// Sends `signal` to every process whose environment at its start had a variable that begins with
// `text` ("NAME=value"), or is `text` if `whole`: what ranks started in sessions of its own.
// Guardians of other agents are left alone. Returns the number of processes. Async-signal-safe.
int signal_marked(const char* text, int signal, bool whole = false);

}  // namespace lockstep::launcher
