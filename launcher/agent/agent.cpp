#include "launcher/agent/agent.h"

#include <algorithm>
#include <cerrno>

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/log.h"
#include "launcher/agent/environment.h"
#include "launcher/agent/report.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;

constexpr int kSavedCode = 3;
// What a rank's descendants still write after its end is waited for this long.
constexpr auto kDrainLimit = milliseconds(500);
// From the first failure seen to the SIGTERM for the others.
constexpr auto kSettle = milliseconds(10);
// The same while all that failed blame another rank, which then is likely to be on its way out.
constexpr auto kCauseLimit = milliseconds(2000);
constexpr auto kWaitingNote = std::chrono::seconds(10);

Duration now() { return Clock::now().time_since_epoch(); }

// 0 where standard output is no terminal.
int terminal_columns() {
  winsize size{};
  if (!::isatty(STDOUT_FILENO)) return 0;
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Wakeup::Wakeup() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw EnvironmentError("[launch] eventfd: " + errno_text(errno));
}
Wakeup::~Wakeup() { ::close(fd_); }
void Wakeup::ring() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof one);
}
void Wakeup::clear() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_, &count, sizeof count);
}

Agent::Agent(AgentContext context) : context_(std::move(context)) {}

int Agent::code_of_stop(const LaunchSpec& spec, int signal) { return spec.failure_code == FailureCode::lockstep ? 1 : 128 + signal; }

LaunchResult Agent::run() {
  started_at_ = now();
  while (true) {
    follow_job();
    if (done_) break;
    wait_for_events();
  }
  return result();
}

// What the state of the job, as the rendezvous tells it, means for the ranks here.
void Agent::follow_job() {
  job_ = context_.client.state();
  const std::string lost = context_.client.lost();
  if (!active_) {
    if (cause_until_ && (now() >= *cause_until_ || !job_.failure || !job_.failure->caused_by_peer)) cause_until_.reset();
    const bool over = job_.phase == Phase::finished || (job_.phase == Phase::failed && job_.settled && !cause_until_);
    if (over || !lost.empty()) {
      done_ = true;
    } else if (job_.phase == Phase::running && job_.epoch > epoch_) {
      if (stop_signal_ != 0) {
        done_ = true;  // asked to stop before anything ran
        return;
      }
      start_ranks();
    } else if (job_.phase == Phase::draining && job_.epoch > epoch_) {
      // It failed elsewhere before its start was heard of here: there is nothing to end, and the next epoch waits for this node to say so.
      epoch_ = job_.epoch;
      context_.client.drained(epoch_);
    } else if (job_.phase == Phase::gathering && stop_signal_ != 0) {
      done_ = true;
    } else if (job_.phase == Phase::gathering && epoch_ > 0 && job_.restarts > told_to_wait_at_) {
      told_to_wait_at_ = job_.restarts;
      log::warn("[launch] ", job_.failure ? job_.failure->reason : "a node was lost", "; waiting for another one in its place, ",
                seconds(context_.spec.join_timeout), " s at most");
    }
    return;
  }
  const bool ended_elsewhere = !lost.empty() || job_.epoch != epoch_ || job_.phase == Phase::draining || job_.phase == Phase::failed;
  if (ended_elsewhere) {
    if (!signalled_at_) {
      frozen_at_failure_ = frozen_.longest(ranks_, now());  // before the signal wakes it
      // At once, because the node that reported a consequence waits only so long for its cause.
      if (frozen_at_failure_ && job_.failure && job_.epoch == epoch_) {
        failure_ = blame_frozen(std::nullopt);
        if (failure_) context_.client.fail(epoch_, *failure_);
      }
    }
    end_ranks(SIGTERM, context_.spec.grace);
  } else if (job_.stopping) {
    end_ranks(SIGTERM, context_.spec.stop_grace);
  }
}

RankOutput::Options Agent::output_options(int local_rank, int rank) const {
  const LaunchSpec& spec = context_.spec;
  RankOutput::Options options;
  options.rank = rank;
  if (!spec.log_dir.empty()) options.log_file = str(spec.log_dir, "/rank-", rank, ".log");
  if (spec.screen == Screen::rank0) {
    options.output = rank == 0 ? Show::raw : Show::nothing;
    options.error = rank == 0 ? Show::raw : Show::prefixed;
  }
  const auto index = static_cast<size_t>(local_rank);
  const int hidden = index < spec.hidden_streams.size() ? spec.hidden_streams[index] : 0;
  const auto& shown = spec.shown_local_ranks;
  const bool filtered = !shown.empty() && std::find(shown.begin(), shown.end(), local_rank) == shown.end();
  if (filtered || (hidden & 1) != 0) options.output = Show::nothing;
  if (filtered || (hidden & 2) != 0) options.error = Show::nothing;
  return options;
}

void Agent::start_ranks() {
  epoch_ = job_.epoch;
  const auto self = std::find_if(job_.nodes.begin(), job_.nodes.end(), [&](const Node& n) { return n.node_id == context_.node_id; });
  check(self != job_.nodes.end(), "[launch] the rendezvous does not know node '", context_.node_id, "'");
  ranks_.clear();
  signalled_at_.reset();
  kill_at_.reset();
  alive_before_failure_.reset();
  drain_until_.reset();
  failure_.reset();
  killed_ = terminated_ = false;
  frozen_at_failure_.reset();
  cause_until_.reset();
  oom_kills_before_ = oom_kill_count();
  started_at_ = now();
  frozen_.begin(static_cast<size_t>(self->slots), started_at_);
  active_ = true;
  // Without restarts nobody would find what is left there.
  while (context_.spec.max_restarts > 0 && static_cast<int>(kept_.size()) < self->slots)
    kept_.push_back(std::make_unique<MemoryFile>("lockstep-kept"));
  for (int local_rank = 0; local_rank < self->slots; ++local_rank) {
    const int rank = self->first_rank + local_rank;
    const RankOutput::Options options = output_options(local_rank, rank);
    auto process = std::make_unique<RankProcess>(rank, options, context_.guardian);
    ChildSpec child;
    child.program = context_.program;
    child.argv = context_.spec.argv;
    child.environment = rank_environment(context_.spec, context_.run_id, job_, *self, context_.store,
                                         {.local_rank = local_rank,
                                          .error_file = process->error_path(),
                                          .kept_memory = kept_.empty() ? "" : kept_[static_cast<size_t>(local_rank)]->path(),
                                          .terminal_columns = options.output == Show::raw ? terminal_columns() : 0});
    child.hold_stop_signals = context_.spec.hold_stop_signals;
    child.inherit_input = job_.nodes.size() == 1 && self->slots == 1;
    process->start(child);
    ranks_.push_back(std::move(process));
  }
}

// SIGTERM goes out once per epoch; a shorter grace of a later call counts.
void Agent::end_ranks(int signal, Duration grace) {
  const Duration at = now();
  if (signal == SIGKILL) {
    killed_ = true;
    if (!signalled_at_) signalled_at_ = at;
    for (auto& rank : ranks_) rank->signal(SIGKILL);
    return;
  }
  if (!signalled_at_) {
    signalled_at_ = at;
    for (auto& rank : ranks_) {
      rank->signal(signal);
      rank->signal(SIGCONT);  // a frozen rank would see the signal only when it is woken
    }
  }
  kill_at_ = kill_at_ ? std::min(*kill_at_, at + grace) : at + grace;
}

void Agent::handle_signals() {
  for (int signal = context_.signals.next(); signal != 0; signal = context_.signals.next()) {
    if (signal == SIGUSR1) {
      passed_usr1_ = true;
      for (auto& rank : ranks_) rank->signal(SIGUSR1);
      continue;
    }
    // A terminal that goes away, as systemd does right after a SIGTERM to a session, is nobody's impatience.
    if (signal == SIGHUP && stop_count_ > 0) continue;
    if (++stop_count_ == 1) {
      stop_signal_ = signal;
      if (active_) log::info("[launch] ", signal_name(signal), ": asking the ranks to save and stop; a second signal kills them");
      if (active_) end_ranks(SIGTERM, context_.spec.stop_grace);
      context_.client.stop();
    } else if (active_) {
      end_ranks(SIGKILL, Duration::zero());
    } else {
      done_ = true;
    }
  }
}

void Agent::wait_for_events() {
  std::vector<pollfd> polls = {{context_.wakeup.fd(), POLLIN, 0}, {context_.signals.fd(), POLLIN, 0}};
  std::vector<std::pair<RankProcess*, Stream>> streams;
  for (auto& rank : ranks_) {
    if (rank->running()) polls.push_back({rank->pid_fd(), POLLIN, 0});
  }
  const size_t first_stream = polls.size();
  for (auto& rank : ranks_) {
    for (const Stream stream : {Stream::output, Stream::error}) {
      if (rank->fd(stream) < 0) continue;
      polls.push_back({rank->fd(stream), POLLIN, 0});
      streams.emplace_back(rank.get(), stream);
    }
  }
  const Duration before = now();
  Duration until = before + kWaitingNote;
  if (active_ && kill_at_ && !killed_) until = std::min(until, *kill_at_);
  if (drain_until_) until = std::min(until, *drain_until_);
  if (active_ && !all_ended()) until = std::min(until, frozen_.next_check());
  if (!active_ && cause_until_) until = std::min(until, *cause_until_);
  // Rounded up, so that the limit has passed when poll returns.
  const auto wait = std::chrono::ceil<milliseconds>(std::max(Duration::zero(), until - before));
  const int ready = ::poll(polls.data(), polls.size(), static_cast<int>(wait.count()));
  if (ready < 0 && errno != EINTR) throw EnvironmentError("[launch] poll: " + errno_text(errno));
  if (ready > 0) {
    context_.wakeup.clear();
    // Output first, so that the last lines are there when the end is reported.
    for (size_t i = 0; i < streams.size(); ++i)
      if (polls[first_stream + i].revents != 0) streams[i].first->read(streams[i].second);
    handle_signals();
  }
  if (ready == 0 && !active_ && job_.phase == Phase::gathering)
    log::info("[launch] waiting for nodes: ", job_.nodes.size(), " of ", context_.spec.nodes, " joined");
  collect_ends(before);
  check_limits();
}

// Whether any rank had ended.
bool Agent::collect_ended(Duration alive_at) {
  bool any = false;
  for (auto& rank : ranks_) {
    if (!rank->running()) continue;
    pollfd poll{rank->pid_fd(), POLLIN, 0};
    if (::poll(&poll, 1, 0) <= 0) continue;
    any = true;
    RankEnd& end = rank->collect();
    // A SIGKILL that the agent did not send is a cause, however late the kernel shows it: files of a dying process are closed, and
    // its peers may fail of that, before its end can be seen.
    const bool killed_by_others = end.status.signal == SIGKILL && !killed_;
    end.seen_at = now();
    end.alive_at = killed_by_others ? alive_before_failure_.value_or(alive_at) : alive_at;
    end.after_signal = signalled_at_.has_value() && !killed_by_others;
  }
  return any;
}

void Agent::collect_ends(Duration alive_at) {
  if (!active_ || !collect_ended(alive_at)) return;
  auto failure = local_failure();
  if (failure && !failure_ && !signalled_at_) {
    alive_before_failure_ = alive_at;
    frozen_at_failure_ = frozen_.longest(ranks_, now());
    // Whoever is about to end because of the same cause, or is the cause, ends by itself if it gets a moment.
    const Deadline settled = Deadline::after(kSettle), cause_known = Deadline::after(kCauseLimit);
    while (!all_ended()) {
      const Deadline& limit = local_failure()->caused_by_peer ? cause_known : settled;
      if (limit.passed()) break;
      std::vector<pollfd> polls;
      for (const auto& rank : ranks_)
        if (rank->running()) polls.push_back({rank->pid_fd(), POLLIN, 0});
      ::poll(polls.data(), polls.size(), static_cast<int>(std::chrono::ceil<milliseconds>(limit.remaining()).count()));
      collect_ended(alive_at);
    }
    failed_after_ = now() - started_at_;
    failure_ = failure = blame_frozen(local_failure());
    end_ranks(SIGTERM, context_.spec.grace);
    // Neither the other nodes nor ranks that wait in the store should wait until all is known here.
    context_.client.fail(epoch_, *failure);
  } else if (!signalled_at_ && !all_ended() && any_saved()) {
    log::info("[launch] ", passed_usr1_ ? "SIGUSR1: the ranks save and stop"
                                        : "a rank has stopped after saving (exit code 3): asking the others to stop");
    context_.client.stop();
    end_ranks(SIGTERM, context_.spec.stop_grace);
  }
  if (all_ended() && !drain_until_) drain_until_ = now() + kDrainLimit;
}

void Agent::check_limits() {
  if (!active_) return;
  const Duration at = now();
  if (kill_at_ && !killed_ && at >= *kill_at_ && !all_ended()) {
    killed_ = true;
    for (auto& rank : ranks_) {
      if (!rank->running()) continue;
      if (stop_count_ < 2) log::warn("[launch] rank ", rank->rank(), " (pid ", rank->pid(), ") did not end in time: killing it");
      rank->signal(SIGKILL);
    }
  }
  if (!all_ended()) return frozen_.check(ranks_, at);
  const bool silent = std::none_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r->output_open(); });
  if (silent || (drain_until_ && at >= *drain_until_)) conclude_epoch();
}

bool Agent::any_saved() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const auto& r) { return r->end() && r->end()->status.signal == 0 && r->end()->status.exit_code == kSavedCode; });
}

bool Agent::all_ended() const {
  return std::none_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r->running(); });
}

Failure Agent::failure_of(const RankEnd& end) const {
  const auto process = std::find_if(ranks_.begin(), ranks_.end(), [&](const auto& r) { return r->rank() == end.rank; });
  Failure failure;
  failure.rank = end.rank;
  failure.host = host_name();
  failure.pid = (*process)->pid();
  failure.exit_code = end.status.exit_code;
  failure.signal = end.status.signal;
  if (end.report) {
    failure.caused_by_peer = end.report->caused_by_peer;
    failure.reason = end.report->message;
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

// All ranks here have ended and their output is written: tells the rendezvous how.
void Agent::conclude_epoch() {
  for (auto& rank : ranks_) rank->close_output();
  active_ = false;
  drain_until_.reset();
  for (const auto& rank : ranks_) {
    const ExitStatus& status = rank->end()->status;
    terminated_ = terminated_ || status.signal != 0;
  }
  // By now it is known what every rank said; the first to end need not be the first that failed.
  auto failure = blame_frozen(local_failure());
  const bool stopped_in_time = job_.stopping || stop_signal_ != 0;
  if (failure_ && !failure) failure = failure_;
  if (!failure && stopped_in_time && killed_ && stop_count_ < 2) {
    failure = Failure{};
    failure->host = host_name();
    failure->reason = str("ranks on host ", host_name(), " did not stop within ", seconds(context_.spec.stop_grace),
                          " s after they were asked to, and were killed");
  }
  if (failure) {
    if (!failure_) failed_after_ = now() - started_at_;
    failure_ = failure;
    context_.client.fail(epoch_, *failure);
  } else if (terminated_ && stop_count_ >= 2) {
    Failure stop;
    stop.host = host_name();
    stop.signal = stop_signal_;
    stop.reason = str("stopped by a second signal on host ", host_name());
    context_.client.fail(epoch_, stop);
  }
  job_ = context_.client.state();
  if (job_.nodes.size() > 1 && job_.failure && job_.failure->caused_by_peer) cause_until_ = now() + kCauseLimit;
  if (job_.phase == Phase::draining && job_.epoch == epoch_) {
    if (job_.failure)
      log::warn("[launch] ", headline(*job_.failure),
                job_.failure->reason.empty() || job_.failure->rank < 0 ? "" : ": " + job_.failure->reason,
                "; starting all ranks again (restart ", job_.restarts + 1, " of ", context_.spec.max_restarts, ")");
    context_.client.drained(epoch_);
  } else if (job_.phase == Phase::running && job_.epoch == epoch_) {
    context_.client.finish(epoch_, any_saved());
  }
}

int Agent::code_of(const Failure& failure) const {
  if (failure.rank < 0) return 1;
  if (context_.spec.failure_code == FailureCode::lockstep) return failure.signal == 0 && failure.exit_code == kWrongUse ? kWrongUse : 1;
  return failure.signal != 0 ? 128 + failure.signal : failure.exit_code;
}

LaunchResult Agent::result() {
  LaunchResult out;
  out.restarts = job_.restarts;
  const std::string lost = context_.client.lost();
  const bool stopped = stop_signal_ != 0 || job_.stopping;
  if (stop_count_ >= 2 || (stop_signal_ != 0 && epoch_ == 0)) {
    out.exit_code = code_of_stop(context_.spec, stop_signal_);
    return out;
  }
  std::optional<Failure> failure = job_.phase == Phase::failed ? job_.failure : std::nullopt;
  if (!failure && job_.phase != Phase::finished) failure = failure_;
  // A rank here that fell because of others fell because of the node that is gone.
  const bool over = job_.phase == Phase::finished || job_.phase == Phase::failed;
  if (!over && !lost.empty() && (!failure || failure->caused_by_peer)) {
    failure = Failure{};
    failure->reason = lost;
  }
  if (failure) {
    FailureContext about;
    about.after_seconds = seconds(failed_after_ == Duration::zero() ? now() - started_at_ : failed_after_);
    for (const auto& rank : ranks_)
      if (rank->rank() == failure->rank) about.log_file = rank->log_file();
    about.others = other_ends(ends(), *failure);
    log::error(failure_box(*failure, about));
    out.exit_code = code_of(*failure);
    out.failure = std::move(failure);
  } else if (job_.saved) {
    out.exit_code = kSavedCode;
  } else if (stopped && terminated_) {
    out.exit_code = code_of_stop(context_.spec, stop_signal_ != 0 ? stop_signal_ : SIGTERM);
  }
  return out;
}

}  // namespace lockstep::launcher
