// What a process inherits, and what this program needs instead.
#pragma once

namespace lockstep::cli {

// To be called first. Standard streams that are closed lead to nowhere; no signal is blocked; SIGCHLD is not ignored; a write beyond the
// limit of file sizes is an error (EFBIG) instead of a death by SIGXFSZ. `is_run`: the command is one that signals ask to stop (train,
// run): their handlers are installed, so that none is lost that arrives while it starts, and SIGPIPE is ignored, as a screen that nobody
// reads any more ends no run.
void prepare_process(bool is_run);

}  // namespace lockstep::cli
