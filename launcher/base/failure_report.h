// FailureReport: what a rank writes about its end for its agent.
#pragma once

#include <optional>
#include <string>

#include "core/base/clock.h"

namespace lockstep::launcher {

// The contents of LOCKSTEP_ERROR_FILE or TORCHELASTIC_ERROR_FILE.
struct FailureReport {
  std::string message;
  // The rank did not fail: it saved and stops. Other programs use the exit code kStoppedAfterSaving
  // for other reasons, so that code counts only together with this flag.
  bool saved = false;
  bool caused_by_peer = false;
  std::optional<Duration> at;  // monotonic time of this host
};

// Reads both formats. Returns nothing for an empty text. Text that is not JSON becomes the message.
std::optional<FailureReport> parse_failure_report(const std::string& text);

}  // namespace lockstep::launcher
