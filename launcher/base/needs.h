// What a process needs from the system before gRPC begins: open files and threads. gRPC 1.51 aborts
// the process if it gets no descriptor. If the system refuses it a thread, it waits for ever and
// ignores signals. So we check first.
#pragma once

#include <cstddef>
#include <string>

namespace lockstep::launcher {

// Raises the soft limit on open files to the hard one, once. Programs started from here get the old
// limit back: see restore_file_limit().
void raise_file_limit();
// Restores the limit of before. Async-signal-safe, so it may be called between fork and exec.
void restore_file_limit();

// The current soft limit.
int file_limit();
// How many of `limit` descriptors connections from outside may not use. Starting programs, and the
// pipes, pidfds and log files of ranks, need them.
int reserved_files(int limit);

// Raises the limit. Throws EnvironmentError unless `more` descriptors fit beside those that are
// open and those that are reserved. `who` names the user in the message: "an agent of 2 ranks".
void require_files(int more, const std::string& who);
// Throws EnvironmentError unless `count` threads can be started now.
void require_threads(size_t count, const std::string& who);

}  // namespace lockstep::launcher
