// Child: the process of one rank, and the file descriptors through which the agent watches it.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "launcher/base/exit_status.h"

namespace lockstep::launcher {

struct Child {
  pid_t pid = -1;   // also the number of its session and of its process group
  int pid_fd = -1;  // readable when the process has ended
  int output_fd = -1;
  int error_fd = -1;
};

struct ChildSpec {
  std::string program;  // a path
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // NAME=value, complete
  bool inherit_input = false;            // otherwise standard input is empty
  bool hold_stop_signals = false;        // see LaunchSpec
  int announce_fd = -1;                  // see Guardian
};

// Starts the program in its own session, with default signals and with pipes for its output. The
// child gets SIGKILL when the calling thread ends. Throws EnvironmentError if the program cannot be
// started. Safe in a process with many threads.
Child start(const ChildSpec& spec);
// How the process ended, without reaping it: its pid stays taken. Call it only once pid_fd is
// readable.
ExitStatus peek_status(const Child& child);
// Reaps the process and closes pid_fd.
void reap(Child& child);

// The path that execvp would use. Throws UsageError if there is none.
std::string find_program(const std::string& name);

}  // namespace lockstep::launcher
