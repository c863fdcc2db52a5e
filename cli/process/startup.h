// Corrects what the process inherited.
#pragma once

#include <string_view>

namespace lockstep::cli {

// Call it first, with the subcommand. It makes these changes:
// - Closed standard streams are opened on /dev/null.
// - No signal is blocked, and SIGCHLD is not ignored.
// - The limit on file sizes becomes the hard one. A write beyond it is an error (EFBIG) instead of
//   a death by SIGXFSZ. `run` leaves the limit to the program that it starts.
// - train and run only: the handlers of the stop signals are installed, so that no signal is lost
//   during the start. SIGPIPE is ignored, because an unread screen ends no run.
void prepare_process(std::string_view command);

}  // namespace lockstep::cli
