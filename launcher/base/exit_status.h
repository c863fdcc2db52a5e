// ExitStatus: how one process ended, and its text. The codes themselves: core/base/error.h.
#pragma once

#include <string>

namespace lockstep::launcher {

struct ExitStatus {
  int exit_code = 0;  // valid if signal is 0
  int signal = 0;
  bool core_dumped = false;
};

// "SIGKILL".
std::string signal_name(int signal);
// "exit code 3", "killed by SIGSEGV (signal 11, core dumped)".
std::string describe(const ExitStatus& status);

}  // namespace lockstep::launcher
