// What a process needs of the system before gRPC begins: open files and threads. gRPC 1.51 aborts
// the process where it gets no descriptor, and waits for ever, whatever signals come, for a thread
// that the system refuses. So that is found out before.
#pragma once

#include <cstddef>
#include <string>

namespace lockstep::launcher {

// Sets the soft limit to the hard one, once. Programs started from here get the old one back: see
// restore_file_limit().
void raise_file_limit();
// The limit as it was before. Async-signal-safe, so that it can be called between fork and exec.
void restore_file_limit();

// The soft limit as it is now.
int file_limit();
// Of so many descriptors, those that connections from outside may not use: pipes, pidfds and log
// files of ranks need them, and starting a program.
int reserved_files(int limit);

// Raises the limit and throws EnvironmentError unless `more` descriptors fit beside those that are
// open, reserved ones not counted. `who` needs them: "an agent of 2 ranks".
void require_files(int more, const std::string& who);
// Throws EnvironmentError unless so many threads can be started now.
void require_threads(size_t count, const std::string& who);

}  // namespace lockstep::launcher
