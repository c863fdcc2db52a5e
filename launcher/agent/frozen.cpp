#include "launcher/agent/frozen.h"

#include <cmath>

#include "core/base/log.h"
#include "launcher/agent/environment.h"
#include "launcher/process/session.h"

namespace lockstep::launcher {
namespace {

constexpr auto kCheck = std::chrono::seconds(1);
// A standstill up to this long may be normal: a tracer stops its process briefly at every event
// that it wants to see, and a process that uses a disk waits for it.
constexpr auto kOrdinary = std::chrono::seconds(10);

// How to let the rank continue.
std::string advice(const FrozenRank& frozen) {
  switch (frozen.look.still) {
    case Standstill::stopped: return str("'kill -CONT ", frozen.pid, "'");
    case Standstill::frozen: return frozen.look.thaw.empty() ? "" : str("'", frozen.look.thaw, "'");
    default: return "";
  }
}

}  // namespace

void FrozenRanks::begin(size_t ranks, Duration at) {
  states_.assign(ranks, {});
  next_check_ = at + kCheck;
}

bool FrozenRanks::State::counts(Duration at) const {
  const bool at_once = look.still == Standstill::stopped || look.still == Standstill::frozen;
  return look.still != Standstill::none && (at_once || at - since >= kOrdinary);
}

void FrozenRanks::look(const Ranks& ranks, Duration at) {
  for (size_t i = 0; i < ranks.size(); ++i) {
    State& state = states_[i];
    const ProcessLook look = ranks[i]->running() ? look_at(ranks[i]->pid()) : ProcessLook{};
    // A process that used CPU time since the last look has not waited for the kernel all the time.
    const bool moved = look.still == Standstill::kernel && look.cpu_ticks != state.look.cpu_ticks;
    if (look.still != state.look.still || moved) {
      state.since = at;
      state.warned = false;
    }
    state.look = look;
  }
}

void FrozenRanks::check(const Ranks& ranks, Duration at) {
  if (at < next_check_) return;
  next_check_ = at + kCheck;
  look(ranks, at);
  for (size_t i = 0; i < ranks.size(); ++i) {
    State& state = states_[i];
    if (state.warned || !state.counts(at)) continue;
    state.warned = true;
    const FrozenRank frozen{.rank = ranks[i]->rank(),
                            .local = i,
                            .pid = ranks[i]->pid(),
                            .since = state.since,
                            .look = state.look};
    const std::string way_on = advice(frozen);
    log::warn(
        "[launch] rank ", frozen.rank, " (pid ", frozen.pid, " on host ", host_name(), ") ",
        to_text(frozen.look.still),
        way_on.empty() ? str(", for ", std::round(seconds(at - state.since)), " s by now") : "",
        " and holds up the others", way_on.empty() ? "" : str("; ", way_on, " resumes it"));
  }
}

std::optional<FrozenRank> FrozenRanks::too_long(
    const Ranks& ranks, Duration at, const std::function<Duration(size_t)>& limit) const {
  for (size_t i = 0; i < ranks.size(); ++i) {
    const State& state = states_[i];
    const bool frozen =
        state.look.still == Standstill::stopped || state.look.still == Standstill::frozen;
    if (!frozen || limit(i) == Duration::zero() || at - state.since < limit(i)) continue;
    return FrozenRank{.rank = ranks[i]->rank(),
                      .local = i,
                      .pid = ranks[i]->pid(),
                      .since = state.since,
                      .look = state.look};
  }
  return std::nullopt;
}

std::optional<FrozenRank> FrozenRanks::longest(const Ranks& ranks, Duration at) {
  look(ranks, at);
  std::optional<FrozenRank> longest;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const State& state = states_[i];
    if (!state.counts(at) || (longest && longest->since <= state.since)) continue;
    longest = {.rank = ranks[i]->rank(),
               .local = i,
               .pid = ranks[i]->pid(),
               .since = state.since,
               .look = state.look};
  }
  return longest;
}

Failure failure_of_frozen(const FrozenRank& frozen, const Failure& gave_up, Duration start) {
  Failure failure;
  failure.rank = frozen.rank;
  failure.host = host_name();
  failure.pid = frozen.pid;
  failure.exit_code = gave_up.exit_code;
  failure.signal = gave_up.signal;
  failure.stopped = true;
  const double since = std::round(seconds(frozen.since - start) * 10) / 10;
  const std::string way_on = advice(frozen);
  const bool traced = frozen.look.still == Standstill::traced;
  std::string what = to_text(frozen.look.still);
  if (frozen.look.still == Standstill::stopped) what = "stopped by SIGSTOP or Ctrl-Z (state T)";
  if (traced) what = "held by a debugger (state t)";
  failure.reason = str(what, " since ", since, " s after the start, until rank ", gave_up.rank,
                       " on host ", gave_up.host, " gave up");
  if (!way_on.empty()) failure.reason += str("; ", way_on, " before that would have resumed it");
  if (traced)
    failure.reason +=
        "; a higher time limit of the collectives (train: parallel.timeout_s) leaves time to debug";
  return failure;
}

}  // namespace lockstep::launcher
