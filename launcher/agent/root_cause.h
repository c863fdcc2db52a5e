// Which of several failed ranks is to blame. When one rank dies, the others often fail as a consequence, and sometimes faster.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "launcher/agent/child.h"

namespace lockstep::launcher {

// The exit code of a rank that was asked to stop and has saved. Other programs end with it for reasons of their own, so it counts only
// together with FailureReport::saved.
constexpr int kSavedCode = 3;

// What a rank said about its end (LOCKSTEP_ERROR_FILE, TORCHELASTIC_ERROR_FILE).
struct FailureReport {
  std::string message;
  bool saved = false;  // it did not fail, but saved and stops
  bool caused_by_peer = false;
  std::optional<Duration> at;  // monotonic time of this host
};

// Reads both formats; empty where there is nothing to read. Bytes that are no JSON count as the message.
std::optional<FailureReport> parse_failure_report(const std::string& text);

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
//   - ranks that were told to end come last, unless they had reported before that (`signalled_at`); but a failure of its own that
//     such a rank reports still comes before one that blames a peer: it took its time, while the others fell at once;
//   - else the earliest counts: a report by its own time; an end by a signal from outside (SIGKILL, SIGSEGV, …) by when the rank was last
//     alive, because such a rank reports nothing while its victims do.
// Empty where nobody failed.
std::optional<size_t> first_failure(const std::vector<RankEnd>& ends, std::optional<Duration> signalled_at);

// Whether the rank has reported, with a time, before this one.
bool reported_before(const RankEnd& end, std::optional<Duration> time);

// Whether the rank stopped after saving: it said so, and ended with kSavedCode.
bool has_saved(const RankEnd& end);

// Whether this end is a failure at all, and not a success, a stop after saving, or what the agent asked for.
bool is_failure(const RankEnd& end);

}  // namespace lockstep::launcher
