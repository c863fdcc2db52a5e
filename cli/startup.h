// What a process inherits, and what this program needs instead.
#pragma once

#include <string_view>

namespace lockstep::cli {

// To be called first, with the subcommand. Standard streams that are closed lead to nowhere; no
// signal is blocked; SIGCHLD is not ignored; a write beyond the limit of file sizes is an error
// (EFBIG) instead of a death by SIGXFSZ, and the limit is the hard one; `run` leaves it to the
// program that it starts. For commands that signals ask to stop (train, run): their handlers are
// installed, so that none is lost that arrives while it starts, and SIGPIPE is ignored, as a screen
// that nobody reads any more ends no run.
void prepare_process(std::string_view command);

}  // namespace lockstep::cli
