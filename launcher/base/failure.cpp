#include "launcher/base/failure.h"

#include "core/base/error.h"
#include "launcher/base/exit_status.h"

namespace lockstep::launcher {

std::string headline(const Failure& failure) {
  if (failure.rank < 0) return failure.reason;
  const std::string what =
      failure.stopped ? "stood still until the others gave up waiting for it"
                      : describe({.exit_code = failure.exit_code, .signal = failure.signal});
  return str("rank ", failure.rank, " on host ", failure.host, " (pid ", failure.pid, "): ", what);
}

}  // namespace lockstep::launcher
