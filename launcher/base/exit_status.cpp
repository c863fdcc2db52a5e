#include "launcher/base/exit_status.h"

#include <string.h>

#include "core/base/error.h"

namespace lockstep::launcher {

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name ? str("SIG", name) : str("signal ", signal);
}

std::string describe(const ExitStatus& status) {
  if (status.signal == 0) return str("exit code ", status.exit_code);
  return str("killed by ", signal_name(status.signal), " (signal ", status.signal,
             status.core_dumped ? ", core dumped)" : ")");
}

}  // namespace lockstep::launcher
