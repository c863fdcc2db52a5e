// SIGINT, SIGTERM, SIGUSR1 and, unless it is ignored (nohup), SIGHUP as a wish: the first one asks the run to save and stop, the second one
// kills it.
#pragma once

namespace lockstep::cli {

// SIGPIPE is none: a screen that nobody reads any more ends no run. Installs the handlers for this process, and lets these signals through
// if its launcher has held them back so far.
void install_stop_signals();
// Whether a signal has arrived. Cheap; from any thread.
bool stop_requested();

}  // namespace lockstep::cli
