// The signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1, and SIGHUP unless it is ignored
// (nohup). Several signals may be one request (launcher/base/stop_wish.h).
#pragma once

#include <functional>

namespace lockstep::cli {

// Who ends the run if somebody asks again, impatiently.
enum class Impatience {
  here,      // this process, by that signal
  of_agent,  // our agent, which gets these signals as well
};
// Installs the handlers for this process and unblocks the signals.
void install_stop_signals(Impatience impatience);
// Whether a signal has arrived. Cheap, safe from any thread.
bool stop_requested();

// Runs a launch, which handles these signals itself. A signal that had arrived is sent again, to
// the launch. `launch` returns its exit code. After it, each of these signals ends the process at
// once with that code, or with kFailed if the launch threw.
int hand_stop_signals_to(const std::function<int()>& launch);

}  // namespace lockstep::cli
