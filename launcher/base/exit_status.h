// ExitStatus: how a process ended, and the words for it.
#pragma once

#include <string>

namespace lockstep::launcher {

// How a process ended.
struct ExitStatus {
  int exit_code = 0;  // valid where signal is 0
  int signal = 0;
  bool core_dumped = false;
};

// "SIGKILL".
std::string signal_name(int signal);
// "exit code 3", "killed by SIGSEGV (signal 11, core dumped)".
std::string describe(const ExitStatus& status);

}  // namespace lockstep::launcher
