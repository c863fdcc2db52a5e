// A rank's side of the memory that it shares with its agent (launcher/base/agent_page.h): the lease
// under which the rank may write what others can see, and the number of its steps.
//
// A new epoch may begin without an agent that has no contact with the rendezvous. The agent and its
// guardian then end its ranks. If both are frozen, the rank must do it itself.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep::launcher {

// Watches the lease on a thread from the first call on, and ends this process by SIGKILL when it
// has passed: nothing must be written any more, not even by handlers of an exit. Does nothing
// without an agent. connect_store() calls it. Thread-safe. Throws EnvironmentError if the system
// refuses a thread or the agent's memory.
void watch_lease();

// Call it just before a write that others can see. Throws EnvironmentError if the lease has passed:
// `what` must not be written then. Without an agent it returns.
void require_lease(std::string_view what);

// Tells the agent how many steps of the whole run are done. An agent that hears of it ends this
// rank if it is frozen for 10 s (LaunchSpec::freeze_timeout), and restarts count as useless while
// the number does not grow. -1: none was done by this process yet. Does nothing without an agent.
void report_progress(int64_t steps);

}  // namespace lockstep::launcher
