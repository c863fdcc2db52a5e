// FailureReport: what a rank leaves behind about its end, for its agent.
#pragma once

#include <optional>
#include <string>

#include "core/base/clock.h"

namespace lockstep::launcher {

// What a rank said about its end (LOCKSTEP_ERROR_FILE, TORCHELASTIC_ERROR_FILE).
struct FailureReport {
  std::string message;
  // Other programs end with kStoppedAfterSaving for reasons of their own, so that exit code counts
  // only together with this.
  bool saved = false;  // it did not fail, but saved and stops
  bool caused_by_peer = false;
  std::optional<Duration> at;  // monotonic time of this host
};

// Reads both formats; empty where there is nothing to read. Bytes that are no JSON count as the
// message.
std::optional<FailureReport> parse_failure_report(const std::string& text);

}  // namespace lockstep::launcher
