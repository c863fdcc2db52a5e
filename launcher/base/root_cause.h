// Which of several failed ranks is to blame. When one rank dies, the others often fail as a
// consequence, and sometimes faster.
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
  Duration alive_at{};        // when it last looked and the rank was alive
  bool after_signal = false;  // the agent had told it to end before
  bool unkillable = false;    // the agent gave up waiting for it to end after SIGKILL
  std::optional<FailureReport> report;
};

// The end that is the cause, by these rules:
//   - a rank's own failure comes before one that says that a peer is to blame;
//   - ranks that were told to end come last, unless they had reported before (`signalled_at`). But
//     a failure of its own that such a rank reports still comes before one that blames a peer: it
//     took its time, while the others fell at once;
//   - else the earliest counts. A report has its own time. A rank that a signal from outside ended
//     (SIGKILL, SIGSEGV, …) counts from when it was last alive: it reports nothing, while its
//     victims do.
// Empty where nobody failed.
std::optional<size_t> first_failure(const std::vector<RankEnd>& ends,
                                    std::optional<Duration> signalled_at);

// Whether the rank has reported, with a time, before this one.
bool reported_before(const RankEnd& end, std::optional<Duration> time);

// Whether the rank stopped after saving: it said so, and ended with kStoppedAfterSaving.
bool has_saved(const RankEnd& end);

// Whether this end is a failure at all, and not a success, a stop after saving, or what the agent
// asked for.
bool is_failure(const RankEnd& end);

}  // namespace lockstep::launcher
