// Decides which of several failed ranks is to blame. If one rank dies, the others often fail as a
// consequence, sometimes faster.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "launcher/base/exit_status.h"
#include "launcher/base/failure_report.h"

namespace lockstep::launcher {

struct RankEnd {
  int rank = 0;
  ExitStatus status;
  Duration seen_at{};         // when the agent saw the end
  Duration alive_at{};        // when it last saw the rank alive
  bool after_signal = false;  // the agent had told the rank to end
  bool unkillable = false;    // the rank did not end after SIGKILL, and the agent gave up
  std::optional<FailureReport> report;
};

// Finds the end that caused the others, by these rules:
// - A rank's own failure counts before one that blames a peer.
// - Ranks that were told to end (at `signalled_at`) count last, unless they had reported before. If
//   such a rank reports a failure of its own, this still counts before one that blames a peer: its
//   failure took time to report, while the others failed at once.
// - Otherwise the earliest counts. A report has its own time. A rank that a signal from outside
//   ended (SIGKILL, SIGSEGV, …) counts from when it was last seen alive, because it reports nothing
//   while its victims do.
// Returns nothing if no rank failed.
std::optional<size_t> first_failure(const std::vector<RankEnd>& ends,
                                    std::optional<Duration> signalled_at);

// Whether the rank's report has a time, and that time is before `time`.
bool reported_before(const RankEnd& end, std::optional<Duration> time);

// Whether the rank stopped after saving: it said so, and ended with kStoppedAfterSaving.
bool has_saved(const RankEnd& end);

// Whether this end is a failure. A success, a stop after saving, and an end that the agent asked
// for are not.
bool is_failure(const RankEnd& end);

}  // namespace lockstep::launcher
