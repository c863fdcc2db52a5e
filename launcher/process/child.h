// Child: one rank's process, and the file descriptors through which it is watched.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "launcher/base/exit_status.h"

namespace lockstep::launcher {

struct Child {
  pid_t pid = -1;   // also its session and its process group
  int pid_fd = -1;  // readable when it has ended
  int output_fd = -1;
  int error_fd = -1;
};

struct ChildSpec {
  std::string program;  // a path
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // NAME=value; all of it
  bool inherit_input = false;            // otherwise standard input is empty
  bool hold_stop_signals = false;        // see LaunchSpec
  int announce_fd = -1;                  // see Guardian
};

// Starts it in a session of its own, with default signals, pipes for its output, and a SIGKILL for
// the case that the calling thread ends. Throws EnvironmentError where the program cannot be
// started. Safe in a process with many threads.
Child start(const ChildSpec& spec);
// How the process ended, without reaping it; its number stays taken. Only once pid_fd is readable.
ExitStatus peek_status(const Child& child);
// Reaps it and closes pid_fd.
void reap(Child& child);

// The path that execvp would take. Throws UsageError if there is none.
std::string find_program(const std::string& name);

}  // namespace lockstep::launcher
