// How ranks end, and what that means for the job. agent.cpp has the rest of Agent.
#include <algorithm>

#include <poll.h>
#include <signal.h>

#include "core/base/log.h"
#include "launcher/agent/agent.h"
#include "launcher/agent/report.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;

// How long to wait for output of a rank's descendants after the rank's end.
constexpr auto kDrainLimit = milliseconds(500);
// Time from the first observed failure to the SIGTERM for the other ranks.
constexpr auto kSettle = milliseconds(10);
// The same, if all failed ranks blame another rank, which then probably fails soon.
constexpr auto kCauseLimit = milliseconds(2000);

constexpr const char* kUnsaidHint =
    "exit code 3 means that a rank has saved, but this one did not say so; a program that saves "
    "when it is asked to stop writes "
    "{\"saved\": true} to the path in LOCKSTEP_ERROR_FILE before it ends with 3";

Duration now() { return Clock::now().time_since_epoch(); }

}  // namespace

// Returns whether any rank had ended.
bool Agent::collect_ended(Duration alive_at) {
  bool any = false;
  for (auto& rank : ranks_) {
    if (!rank->running()) continue;
    pollfd poll{rank->pid_fd(), POLLIN, 0};
    if (::poll(&poll, 1, 0) <= 0) continue;
    any = true;
    RankEnd& end = rank->collect();
    // A SIGKILL that the agent did not send is a cause, however late the kernel shows it. The files
    // of a dying process are closed before its end is visible, and its peers may already fail
    // because of that.
    const bool killed_by_others = end.status.signal == SIGKILL && !killed_at_;
    end.seen_at = now();
    end.alive_at = killed_by_others ? alive_before_failure_.value_or(alive_at) : alive_at;
    end.after_signal = signalled_at_.has_value() && !killed_by_others;
  }
  return any;
}

void Agent::collect_ends(Duration alive_at) {
  if (!active() || !collect_ended(alive_at)) return;
  auto failure = local_failure();
  if (failure && !failure_ && !signalled_at_) {
    alive_before_failure_ = alive_at;
    frozen_at_failure_ = frozen_.longest(ranks_, now());
    // A rank that fails for the same reason, or that is the cause, usually ends within a moment.
    const Deadline settled = Deadline::after(kSettle), cause_known = Deadline::after(kCauseLimit);
    while (!all_ended()) {
      const Deadline& limit = local_failure()->caused_by_peer ? cause_known : settled;
      if (limit.passed()) break;
      std::vector<pollfd> polls;
      for (const auto& rank : ranks_)
        if (rank->running()) polls.push_back({rank->pid_fd(), POLLIN, 0});
      ::poll(polls.data(), polls.size(),
             static_cast<int>(std::chrono::ceil<milliseconds>(limit.remaining()).count()));
      collect_ended(alive_at);
    }
    failed_after_ = now() - started_at_;
    failure_ = failure = blame_frozen(local_failure());
    end_ranks(SIGTERM, context_.spec.grace);
    // Report now: other nodes, and ranks that wait in the store, should not wait until everything
    // is known here.
    report_failure();
  } else if (!signalled_at_ && !all_ended() && any_saved()) {
    log::info("[launch] ",
              passed_usr1_
                  ? "SIGUSR1: the ranks save and stop"
                  : "a rank has stopped after saving (exit code 3): asking the others to stop");
    context_.courier.send([&client = context_.client] { client.stop(); });
    end_ranks(SIGTERM, context_.spec.stop_grace);
  }
  if (all_ended() && !drain_until_) drain_until_ = now() + kDrainLimit;
}

// Reports failure_ to the rendezvous.
void Agent::report_failure() {
  context_.courier.send([&client = context_.client, epoch = epoch_, failure = *failure_] {
    client.fail(epoch, failure);
  });
}

bool Agent::any_saved() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const auto& r) { return r->end() && has_saved(*r->end()); });
}

bool Agent::all_saved() const {
  return !ranks_.empty() && std::all_of(ranks_.begin(), ranks_.end(), [](const auto& r) {
    return r->end() && has_saved(*r->end());
  });
}

bool Agent::all_ended() const {
  return std::none_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r->running(); });
}

bool Agent::keeps_memory() const {
  return std::any_of(kept_.begin(), kept_.end(),
                     [](const auto& file) { return !file->contents(1).empty(); });
}

Failure Agent::failure_of(const RankEnd& end) const {
  const auto process = std::find_if(ranks_.begin(), ranks_.end(),
                                    [&](const auto& r) { return r->rank() == end.rank; });
  Failure failure;
  failure.rank = end.rank;
  failure.host = host_name();
  failure.pid = (*process)->pid();
  failure.exit_code = end.status.exit_code;
  failure.signal = end.status.signal;
  if (end.report && !end.report->saved) {
    failure.caused_by_peer = end.report->caused_by_peer;
    failure.reason = end.report->message;
  } else if (end.status.signal == 0 && end.status.exit_code == kStoppedAfterSaving) {
    failure.reason = kUnsaidHint;
  } else {
    failure.reason = signal_hint(end.status.signal, oom_kill_count() - oom_kills_before_);
  }
  failure.last_lines = (*process)->last_lines();
  return failure;
}

std::vector<RankEnd> Agent::ends() const {
  std::vector<RankEnd> ends;
  for (const auto& rank : ranks_)
    if (rank->end()) ends.push_back(*rank->end());
  return ends;
}

std::optional<Failure> Agent::local_failure() const {
  const std::vector<RankEnd> ends = this->ends();
  const auto first = first_failure(ends, signalled_at_);
  if (!first) return std::nullopt;
  return failure_of(ends[*first]);
}

std::optional<Failure> Agent::blame_frozen(std::optional<Failure> failure) const {
  const std::optional<Failure>& gave_up = failure ? failure : job_.failure;
  if (!frozen_at_failure_ || !gave_up || !gave_up->caused_by_peer) return failure;
  Failure cause = failure_of_frozen(*frozen_at_failure_, *gave_up, started_at_);
  for (const auto& rank : ranks_)
    if (rank->rank() == cause.rank) cause.last_lines = rank->last_lines();
  return cause;
}

// All ranks here have ended and their output is written. Tells the rendezvous how they ended.
void Agent::conclude_epoch() {
  for (auto& rank : ranks_) rank->close_output();
  stage_ = Stage::concluding;
  drain_until_.reset();
  for (const auto& rank : ranks_) {
    const ExitStatus& status = rank->end()->status;
    terminated_ = terminated_ || status.signal != 0;
  }
  // All reports are known now. The rank that ended first need not be the one that failed first.
  auto failure = blame_frozen(local_failure());
  const bool stopped_in_time = job_.stopping || stop_signal_ != 0;
  if (failure_ && (!failure || convicted_)) failure = failure_;
  if (!failure && stopped_in_time && killed_at_ && !insisted()) {
    failure = Failure{};
    failure->host = host_name();
    failure->reason =
        str("ranks on host ", host_name(), " did not stop within ",
            seconds(context_.spec.stop_grace), " s after they were asked to, and were killed");
  }
  if (failure) {
    if (!failure_) failed_after_ = now() - started_at_;
    failure_ = failure;
    report_failure();
  } else if (terminated_ && insisted()) {
    Failure stop;
    stop.host = host_name();
    stop.signal = stop_signal_;
    stop.reason = str("stopped by a second signal on host ", host_name());
    context_.courier.send(
        [&client = context_.client, epoch = epoch_, stop] { client.fail(epoch, stop); });
  }
}

// Continues once the rendezvous has answered the report.
void Agent::conclude_with_answer() {
  if (job_.nodes.size() > 1 && job_.failure && job_.failure->caused_by_peer)
    cause_until_ = now() + kCauseLimit;
  if (job_.phase == Phase::draining && job_.epoch == epoch_) {
    if (job_.failure)
      log::warn(
          "[launch] ", headline(*job_.failure),
          job_.failure->reason.empty() || job_.failure->rank < 0 ? "" : ": " + job_.failure->reason,
          job_.restarts < context_.spec.max_restarts
              ? str("; starting all ranks again (restart ", job_.restarts + 1, " of ",
                    context_.spec.max_restarts, ")")
              : "; no restart is left: the job goes on if fewer ranks or nodes will do");
    drained_epoch_ = epoch_;
    context_.courier.send([&client = context_.client, epoch = epoch_, progress = progressed()] {
      client.drained(epoch, progress);
    });
  } else if (job_.phase == Phase::running && job_.epoch == epoch_) {
    context_.courier.send([&client = context_.client, epoch = epoch_, saved = any_saved()] {
      client.finish(epoch, saved);
    });
  }
}

int Agent::code_of_stop(int signal) const {
  return context_.spec.failure_code == FailureCode::lockstep ? kFailed : 128 + signal;
}

int Agent::code_of(const Failure& failure) const {
  if (failure.rank < 0) return kFailed;
  if (context_.spec.failure_code == FailureCode::lockstep)
    return failure.signal == 0 && failure.exit_code == kWrongUse ? kWrongUse : kFailed;
  if (failure.signal != 0) return 128 + failure.signal;
  // This code would mean that all ranks have saved.
  return failure.exit_code == kStoppedAfterSaving ? kFailed : failure.exit_code;
}

bool Agent::follows_loss(const Failure& failure) const {
  const auto process = std::find_if(ranks_.begin(), ranks_.end(),
                                    [&](const auto& r) { return r->rank() == failure.rank; });
  if (!signalled_for_loss_ || failure.stopped || process == ranks_.end() || !(*process)->end())
    return false;
  const RankEnd& end = *(*process)->end();
  return end.after_signal && !reported_before(end, signalled_at_);
}

LaunchResult Agent::result() {
  LaunchResult out;
  out.restarts = job_.restarts;
  const std::string lost = context_.client.lost();
  const bool stopped = stop_signal_ != 0 || job_.stopping;
  if (insisted() || (stop_signal_ != 0 && epoch_ == 0)) {
    out.exit_code = all_saved() ? kStoppedAfterSaving : code_of_stop(stop_signal_);
    return out;
  }
  std::optional<Failure> failure = job_.phase == Phase::failed ? job_.failure : std::nullopt;
  if (!failure && job_.phase != Phase::finished) failure = failure_;
  // If a rank here failed because of others, the cause is the node that is gone.
  const bool over = job_.phase == Phase::finished || job_.phase == Phase::failed;
  if (!over && !lost.empty() && (!failure || failure->caused_by_peer || follows_loss(*failure))) {
    failure = Failure{};
    failure->reason = lost;
  }
  if (failure) {
    if (convicted_ && !over && !lost.empty()) failure->reason += "; " + lost;
    FailureContext about;
    about.after_seconds =
        seconds(failed_after_ == Duration::zero() ? now() - started_at_ : failed_after_);
    for (const auto& rank : ranks_)
      if (rank->rank() == failure->rank) about.log_file = rank->log_file();
    about.others = other_ends(ends(), *failure);
    about.memory_lost = stopped && job_.restarts < context_.spec.max_restarts && keeps_memory();
    log::error(failure_box(*failure, about));
    out.exit_code = code_of(*failure);
    out.failure = std::move(failure);
  } else if (job_.saved) {
    out.exit_code = kStoppedAfterSaving;
  } else if (stopped && terminated_) {
    out.exit_code = code_of_stop(stop_signal_ != 0 ? stop_signal_ : SIGTERM);
  }
  return out;
}

}  // namespace lockstep::launcher
