// The signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1 and, unless it is ignored (nohup), SIGHUP. However many of them arrive,
// they ask once (launcher/stop_wish.h).
#pragma once

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

// Blocks these signals until a launch takes them over; one that has arrived is sent once more, to the launch.
void hand_over_stop_signals();

// The work is done: from here on each of these signals ends the process at once, with this exit code.
void end_on_stop_signal(int exit_code);

}  // namespace lockstep::cli
