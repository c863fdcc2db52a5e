#include "launcher/agent/frozen.h"

#include <cmath>

#include "core/base/log.h"
#include "launcher/agent/environment.h"
#include "launcher/agent/session.h"

namespace lockstep::launcher {
namespace {

constexpr auto kCheck = std::chrono::seconds(2);
// A traced process (state t) is stopped for a moment at every event that its tracer wants to see.
constexpr auto kTraced = std::chrono::seconds(10);

}  // namespace

void FrozenRanks::begin(size_t ranks, Duration at) {
  states_.assign(ranks, {});
  next_check_ = at + kCheck;
}

bool FrozenRanks::State::counts(Duration at) const { return stopped && (!traced || at - since >= kTraced); }

void FrozenRanks::look(const Ranks& ranks, Duration at) {
  for (size_t i = 0; i < ranks.size(); ++i) {
    State& state = states_[i];
    const char letter = ranks[i]->running() ? process_state(ranks[i]->pid()) : '?';
    const bool stopped = letter == 'T' || letter == 't';
    if (stopped && !state.stopped) state.since = at;
    state.stopped = stopped;
    state.traced = letter == 't';
    state.warned = state.warned && stopped;
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
    const std::string who = str("[launch] rank ", ranks[i]->rank(), " (pid ", ranks[i]->pid(), " on host ", host_name(), ")");
    if (state.traced)
      log::warn(who, " is held by a debugger (state t) for ", seconds(at - state.since), " s and holds up the others");
    else
      log::warn(who, " is stopped (state T) and holds up the others; 'kill -CONT ", ranks[i]->pid(), "' lets it go on");
  }
}

std::optional<FrozenRank> FrozenRanks::longest(const Ranks& ranks, Duration at) {
  look(ranks, at);
  std::optional<FrozenRank> longest;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const State& state = states_[i];
    if (!state.counts(at) || (longest && longest->since <= state.since)) continue;
    longest = {.rank = ranks[i]->rank(), .pid = ranks[i]->pid(), .since = state.since, .traced = state.traced};
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
  failure.reason = str(frozen.traced ? "held by a debugger (state t)" : "stopped by SIGSTOP or Ctrl-Z (state T)", " since ", since,
                       " s after the start, until rank ", gave_up.rank, " on host ", gave_up.host, " gave up; ");
  failure.reason += frozen.traced ? "a higher time limit of the collectives (train: parallel.timeout_s) leaves time to debug"
                                  : str("'kill -CONT ", frozen.pid, "' before that lets it go on");
  return failure;
}

}  // namespace lockstep::launcher
