// The signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1 and, unless it is ignored (nohup),
// SIGHUP. However many of them arrive, they ask once (launcher/base/stop_wish.h).
#pragma once

#include <functional>

namespace lockstep::cli {

// Who ends the run where somebody asks again, impatiently.
enum class Impatience {
  here,      // this process: by that signal
  of_agent,  // our agent, which gets these signals as well
};
// Installs the handlers for this process, and lets these signals through.
void install_stop_signals(Impatience impatience);
// Whether a signal has arrived. Cheap; from any thread.
bool stop_requested();

// Runs a launch, which handles these signals itself; one that has arrived is sent once more, to it.
// The launch returns its exit code. From then on each of these signals ends the process at once,
// with that code; after an exception with kFailed.
int hand_stop_signals_to(const std::function<int()>& launch);

}  // namespace lockstep::cli
