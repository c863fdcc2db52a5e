#include "launcher/base/root_cause.h"

#include <tuple>

#include <signal.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

bool killed_from_outside(const ExitStatus& status) {
  return status.signal != 0 && status.signal != SIGABRT && status.signal != SIGPIPE &&
         status.signal != SIGTERM;
}

}  // namespace

bool has_saved(const RankEnd& end) {
  return end.status.signal == 0 && end.status.exit_code == kStoppedAfterSaving && end.report &&
         end.report->saved;
}

bool is_failure(const RankEnd& end) {
  if (end.status.signal == 0) return end.status.exit_code != 0 && !has_saved(end);
  return !(end.after_signal && (end.status.signal == SIGTERM || end.status.signal == SIGKILL));
}

bool reported_before(const RankEnd& end, std::optional<Duration> time) {
  return end.report && end.report->at && time && *end.report->at < *time;
}

std::optional<size_t> first_failure(const std::vector<RankEnd>& ends,
                                    std::optional<Duration> signalled_at) {
  enum Blame { own, own_told_late, of_a_peer, ended_by_us };
  using Key = std::tuple<Blame, Duration, size_t>;
  std::optional<Key> best;
  for (size_t i = 0; i < ends.size(); ++i) {
    const RankEnd& end = ends[i];
    const bool in_time = reported_before(end, signalled_at);
    if (!is_failure(end) && !(in_time && end.status.exit_code + end.status.signal != 0)) continue;
    Duration at = killed_from_outside(end.status) ? end.alive_at : end.seen_at;
    if (end.report && end.report->at) at = std::min(at, *end.report->at);
    const bool blames_peer = end.report && end.report->caused_by_peer;
    const bool too_late = end.after_signal && !in_time;
    const Blame blame = too_late ? (end.report && !blames_peer ? own_told_late : ended_by_us)
                                 : (blames_peer ? of_a_peer : own);
    const Key key{blame, at, i};
    if (!best || key < *best) best = key;
  }
  if (!best) return std::nullopt;
  return std::get<2>(*best);
}

}  // namespace lockstep::launcher
