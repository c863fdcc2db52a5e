#include "launcher/agent/agent.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/log.h"
#include "launcher/agent/environment.h"
#include "launcher/agent/report.h"
#include "launcher/agent/standstill.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;

// How often the agent checks whether the screen is read again, while output of ranks waits for it.
constexpr auto kScreenCheck = milliseconds(500);
constexpr auto kWaitingNote = std::chrono::seconds(10);
// How long the agent may still report to the rendezvous after a second request to stop.
constexpr auto kLastWords = std::chrono::seconds(1);
// Time from SIGKILL until the agent gives a rank up. The kernel cannot end a process that waits for
// a device, or that a control group froze.
constexpr auto kUnkillable = std::chrono::seconds(5);
// After this long, the ranks of a program that does not count its steps have made progress.
constexpr auto kLongRun = std::chrono::seconds(60);

Duration now() { return Clock::now().time_since_epoch(); }

// 0 if standard output is not a terminal.
int terminal_columns() {
  winsize size{};
  if (!::isatty(STDOUT_FILENO)) return 0;
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Agent::Agent(AgentContext context) : context_(std::move(context)) {}

LaunchResult Agent::run(std::function<void()> join) {
  started_at_ = now();
  roster_.begin(started_at_);
  context_.courier.send(std::move(join));
  while (true) {
    follow_job();
    if (done_) break;
    wait_for_events();
  }
  return result();
}

// Whether the job ends before any ranks start, because of a request to stop. Ranks that can save at
// any time are started nevertheless.
bool Agent::stop_before_ranks() const {
  return stop_signal_ != 0 && !context_.spec.hold_stop_signals;
}

// Acts on the job's state as the rendezvous reports it.
void Agent::follow_job() {
  if (stage_ == Stage::joining) {
    done_ = stop_before_ranks() || insisted();
    if (done_ || !context_.courier.idle()) return;
    stage_ = Stage::waiting;
  }
  job_ = context_.client.state();
  const std::string lost = context_.client.lost();
  if (insisted() && !active()) {
    done_ = context_.courier.idle() || now() >= *insisted_at_ + kLastWords;
    if (done_) return;
  }
  if (stage_ == Stage::concluding) {
    if (!context_.courier.idle()) return;
    stage_ = Stage::waiting;
    conclude_with_answer();
  }
  if (stage_ == Stage::waiting) follow_job_while_waiting(lost);
  if (active()) follow_job_while_active(lost);
}

void Agent::follow_job_while_waiting(const std::string& lost) {
  if (cause_until_ && (now() >= *cause_until_ || !job_.failure || !job_.failure->caused_by_peer))
    cause_until_.reset();
  const bool over = job_.phase == Phase::finished ||
                    (job_.phase == Phase::failed && job_.settled && !cause_until_);
  if (over || !lost.empty()) {
    done_ = true;
  } else if (job_.phase == Phase::running && job_.epoch > epoch_) {
    done_ = stop_before_ranks();
    if (!done_) {
      if (epoch_ > 0 && job_.nodes.size() > 1 && !same_nodes())
        say_who_is_missing();  // the restart may have come before this node joined
      start_ranks();
    }
  } else if (job_.phase == Phase::draining && job_.epoch > drained_epoch_) {
    // The epoch ended elsewhere, before this agent heard of its start or after its ranks were done.
    // Nothing runs here, but the next epoch starts only after this node has reported that.
    epoch_ = drained_epoch_ = job_.epoch;
    context_.courier.send([&client = context_.client, epoch = epoch_] {
      client.drained(epoch, /*progressed=*/false);
    });
  } else if (job_.phase == Phase::gathering && stop_signal_ != 0) {
    done_ = true;
  } else if (job_.phase == Phase::gathering && epoch_ > 0) {
    say_who_is_missing();
  }
}

// Warns once for each restart.
void Agent::say_who_is_missing() {
  if (static_cast<int>(job_.nodes.size()) == context_.spec.nodes) {
    if (job_.idle_restarts > told_to_wait_at_)
      log::warn("[launch] ", job_.idle_restarts,
                " restarts in a row made no progress: the next one comes in ",
                seconds(backoff_after(job_.idle_restarts)), " s");
    told_to_wait_at_ = job_.idle_restarts;
    return;
  }
  const auto epoch = static_cast<int>(job_.epoch);
  if (epoch <= told_to_wait_at_) return;
  told_to_wait_at_ = epoch;
  log::warn("[launch] ", job_.failure ? job_.failure->reason : "a node was lost",
            "; waiting for another one in its place, ",
            seconds(context_.spec.min_nodes > 0 ? context_.spec.spare_timeout
                                                : context_.spec.join_timeout),
            " s at most");
}

void Agent::say_what_changed() const {
  int world = 0;
  for (const Node& node : job_.nodes) world += node.slots;
  if (world_ > 0 && world != world_)
    log::warn("[launch] epoch ", job_.epoch, " has ", world, " rank(s) on ", job_.nodes.size(),
              " node(s); epoch ", epoch_, " had ", world_, " on ", node_ids_.size());
}

bool Agent::same_nodes() const {
  return std::equal(job_.nodes.begin(), job_.nodes.end(), node_ids_.begin(), node_ids_.end(),
                    [](const Node& node, const std::string& id) { return node.node_id == id; });
}

void Agent::follow_job_while_active(const std::string& lost) {
  const bool ended_elsewhere = !lost.empty() || job_.epoch != epoch_ ||
                               job_.phase == Phase::draining || job_.phase == Phase::failed;
  if (job_.resizing && job_.epoch == epoch_ && lost.empty()) {
    if (!signalled_at_)
      log::info("[launch] another node has joined: the ranks save and end within ",
                seconds(context_.spec.stop_grace), " s, and start again with it");
    end_ranks(SIGTERM, context_.spec.stop_grace);
  } else if (ended_elsewhere) {
    if (!signalled_at_) {
      signalled_for_loss_ = !lost.empty();
      frozen_at_failure_ = frozen_.longest(ranks_, now());  // before the signal wakes it
      // Report at once: the node that reported a consequence waits only a short time for its cause.
      if (frozen_at_failure_ && job_.failure && job_.epoch == epoch_) {
        failure_ = blame_frozen(std::nullopt);
        if (failure_) report_failure();
      }
    }
    end_ranks(SIGTERM, context_.spec.grace);
  } else if (job_.stopping || stop_signal_ != 0) {
    end_ranks(SIGTERM, context_.spec.stop_grace);
  }
}

RankOutput::Options Agent::output_options(int local_rank, int rank) const {
  const LaunchSpec& spec = context_.spec;
  RankOutput::Options options;
  options.rank = rank;
  options.screen = &context_.screen;
  if (context_.logs)
    context_.logs->put_into(options, job_.restarts, local_rank);
  else if (!spec.log_dir.empty())
    options.log_file = str(spec.log_dir, "/rank-", rank, ".log");
  if (spec.screen == Screen::rank0) {
    options.output = rank == 0 ? Show::raw : Show::nothing;
    options.error = rank == 0 ? Show::raw : Show::prefixed;
  }
  const auto index = static_cast<size_t>(local_rank);
  const int hidden = index < spec.hidden_streams.size() ? spec.hidden_streams[index] : 0;
  const auto& shown = spec.shown_local_ranks;
  const bool filtered =
      !shown.empty() && std::find(shown.begin(), shown.end(), local_rank) == shown.end();
  if (filtered || (hidden & 1) != 0) options.output = Show::nothing;
  if (filtered || (hidden & 2) != 0) options.error = Show::nothing;
  return options;
}

void Agent::start_ranks() {
  say_what_changed();
  epoch_ = job_.epoch;
  world_ = 0;
  for (const Node& node : job_.nodes) world_ += node.slots;
  node_ids_.clear();
  for (const Node& node : job_.nodes) node_ids_.push_back(node.node_id);
  const auto self = std::find_if(job_.nodes.begin(), job_.nodes.end(),
                                 [&](const Node& n) { return n.node_id == context_.node_id; });
  check(self != job_.nodes.end(), "[launch] the rendezvous does not know node '", context_.node_id,
        "'");
  ranks_.clear();
  signalled_at_.reset();
  signalled_for_loss_ = false;
  kill_at_.reset();
  killed_at_.reset();
  alive_before_failure_.reset();
  drain_until_.reset();
  failure_.reset();
  convicted_ = false;
  fenced_before_ = context_.page->fenced;
  for (auto& each : context_.page->progress) each = 0;
  terminated_ = false;
  frozen_at_failure_.reset();
  cause_until_.reset();
  oom_kills_before_ = oom_kill_count();
  started_at_ = now();
  frozen_.begin(static_cast<size_t>(self->slots), started_at_);
  stage_ = Stage::active;
  // Without another epoch, nobody would read the kept memory.
  while (context_.spec.may_restart() && static_cast<int>(kept_.size()) < self->slots)
    kept_.push_back(std::make_unique<MemoryFile>("lockstep-kept"));
  for (int local_rank = 0; local_rank < self->slots; ++local_rank)
    ranks_.push_back(start_rank(*self, local_rank));
  if (std::exchange(usr1_waits_, false)) pass_on_usr1();
}

std::unique_ptr<RankProcess> Agent::start_rank(const Node& self, int local_rank) {
  const int rank = self.first_rank + local_rank;
  const RankOutput::Options options = output_options(local_rank, rank);
  auto process = std::make_unique<RankProcess>(rank, options, context_.guardian);
  ChildSpec child;
  child.program = context_.program;
  child.argv = context_.spec.argv;
  child.environment = rank_environment(
      context_.spec, context_.run_id, job_, self, context_.store,
      {.local_rank = local_rank,
       .agent_page = context_.page.path(),
       .error_file = process->error_path(),
       .kept_memory = kept_.empty() ? "" : kept_[static_cast<size_t>(local_rank)]->path(),
       .terminal_columns = options.output == Show::raw ? terminal_columns() : 0});
  child.hold_stop_signals = context_.spec.hold_stop_signals;
  child.inherit_input = job_.nodes.size() == 1 && self.slots == 1;
  process->start(child);
  return process;
}

// Sends SIGTERM once per epoch. A later call may shorten the grace.
void Agent::end_ranks(int signal, Duration grace) {
  const Duration at = now();
  if (signal == SIGKILL) {
    if (!killed_at_) killed_at_ = at;
    if (!signalled_at_) signalled_at_ = at;
    for (auto& rank : ranks_) rank->signal(SIGKILL);
    return;
  }
  if (!signalled_at_) {
    signalled_at_ = at;
    for (auto& rank : ranks_) {
      rank->signal(signal);
      rank->signal(SIGCONT);  // a frozen rank sees the signal only when it is woken
    }
  }
  kill_at_ = kill_at_ ? std::min(*kill_at_, at + grace) : at + grace;
}

void Agent::handle_signals() {
  while (const auto arrival = context_.signals.next()) {
    // Another program decides itself what SIGUSR1 means.
    if (arrival->signal == SIGUSR1 && !context_.spec.hold_stop_signals) {
      pass_on_usr1();
      continue;
    }
    const auto& more = context_.spec.more_signals;
    if (arrival->signal != SIGQUIT &&
        std::find(more.begin(), more.end(), arrival->signal) != more.end()) {
      for (auto& rank : ranks_) rank->signal(arrival->signal);
      continue;
    }
    switch (wish_.take(arrival->signal, arrival->at)) {
      case StopWish::Meaning::ask: ask_to_stop(arrival->signal); break;
      case StopWish::Meaning::copy: break;
      case StopWish::Meaning::insist:
        if (!insisted_at_) insisted_at_ = now();
        if (active()) end_ranks(SIGKILL, Duration::zero());
        break;
    }
  }
}

void Agent::ask_to_stop(int signal) {
  stop_signal_ = signal;
  if (active()) {
    const char* insisting = signal == SIGINT || signal == SIGTERM
                                ? "; the same again, after a second or later, kills them"
                                : "";
    log::info("[launch] ", signal_name(signal), ": asking the ranks to save and stop within ",
              seconds(context_.spec.stop_grace), " s", insisting);
    end_ranks(SIGTERM, context_.spec.stop_grace);
  }
  context_.courier.send([&client = context_.client] { client.stop(); });
}

void Agent::pass_on_usr1() {
  passed_usr1_ = active();
  usr1_waits_ = !active();
  for (auto& rank : ranks_) rank->signal(SIGUSR1);
}

void Agent::wait_for_events() {
  std::vector<pollfd> polls = {{context_.wakeup.fd(), POLLIN, 0},
                               {context_.signals.fd(), POLLIN, 0}};
  std::vector<std::pair<RankProcess*, Stream>> streams;
  for (auto& rank : ranks_) {
    if (rank->running()) polls.push_back({rank->pid_fd(), POLLIN, 0});
  }
  const size_t first_stream = polls.size();
  bool held_up = false;
  for (auto& rank : ranks_) {
    for (const Stream stream : {Stream::output, Stream::error}) {
      if (rank->fd(stream) < 0) continue;
      // Always read from ranks that must end, or they could hang in a write. They write little.
      if (!signalled_at_ && !all_ended() && rank->held_up(stream)) {
        held_up = true;
        continue;
      }
      polls.push_back({rank->fd(stream), POLLIN, 0});
      streams.emplace_back(rank.get(), stream);
    }
  }
  const Duration before = now();
  Duration until = before + kWaitingNote;
  if (active() && kill_at_ && !killed_at_) until = std::min(until, *kill_at_);
  if (active() && killed_at_ && !all_ended()) until = std::min(until, *killed_at_ + kUnkillable);
  const bool gathering = stage_ == Stage::waiting && job_.phase == Phase::gathering;
  if (gathering) until = std::min(until, roster_.next());
  if (active() && !convicted_) {
    const Duration lease(context_.page->lease_until_ns.load());
    if (lease != kEndlessLease) until = std::min(until, before + (lease - boot_time()));
  }
  if (insisted_at_ && !active()) until = std::min(until, *insisted_at_ + kLastWords);
  if (held_up) until = std::min(until, before + kScreenCheck);
  if (drain_until_) until = std::min(until, *drain_until_);
  if (active() && !all_ended()) until = std::min(until, frozen_.next_check());
  if (!active() && cause_until_) until = std::min(until, *cause_until_);
  // Rounded up, so that the limit has passed when poll returns.
  const auto wait = std::chrono::ceil<milliseconds>(std::max(Duration::zero(), until - before));
  const int ready = ::poll(polls.data(), polls.size(), static_cast<int>(wait.count()));
  if (ready < 0 && errno != EINTR) throw EnvironmentError("[launch] poll: " + errno_text(errno));
  if (ready > 0) {
    context_.wakeup.clear();
    // Read output first, so the last lines are known when the end of the rank is reported.
    for (size_t i = 0; i < streams.size(); ++i)
      if (polls[first_stream + i].revents != 0) streams[i].first->read(streams[i].second);
    handle_signals();
  }
  if (gathering) {
    const std::string roster = roster_.look(job_.nodes, context_.spec.nodes, now());
    if (!roster.empty()) log::info("[launch] waiting for nodes: ", roster);
  }
  end_without_lease();
  collect_ends(before);
  check_limits();
}

void Agent::check_limits() {
  if (!active()) return;
  const Duration at = now();
  if (kill_at_ && !killed_at_ && at >= *kill_at_ && !all_ended()) {
    killed_at_ = at;
    for (auto& rank : ranks_) {
      if (!rank->running()) continue;
      const std::string why = to_text(look_at(rank->pid()).still);
      log::warn("[launch] rank ", rank->rank(), " (pid ", rank->pid(), ") did not end in time",
                why.empty() ? "" : "; it " + why, ": killing it");
      rank->signal(SIGKILL);
    }
  }
  if (killed_at_ && at >= *killed_at_ + kUnkillable && !all_ended()) give_up_unkillable();
  if (!all_ended()) {
    frozen_.check(ranks_, at);
    return end_frozen();
  }
  const bool silent =
      std::none_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r->output_open(); });
  if (silent || (drain_until_ && at >= *drain_until_)) conclude_epoch();
}

void Agent::end_without_lease() {
  if (!active() || convicted_ || all_ended()) return;
  if (!context_.page->lease_passed() && context_.page->fenced == fenced_before_) return;
  Failure failure;
  failure.host = host_name();
  failure.reason = str(
      "host ", host_name(), " (agent pid ", ::getpid(), ") had no answer of the rendezvous for ",
      seconds(ranks_may_run(job_.lease)), " s (", context_.store.text(),
      "), or was frozen: its ranks were killed, because the others may go on without them");
  const bool first = !signalled_at_;
  end_ranks(SIGKILL, Duration::zero());
  if (first) convict(failure);
}

// Ends the ranks if one of them has stood still for longer than --freeze-timeout.
void Agent::end_frozen() {
  if (signalled_at_) return;
  const auto limit = [&](size_t local) -> Duration {
    if (context_.spec.freeze_timeout) return *context_.spec.freeze_timeout;
    return context_.page->progress[local] != 0 ? Duration(kFreezeTimeout) : Duration::zero();
  };
  const auto frozen = frozen_.too_long(ranks_, now(), limit);
  if (!frozen) return;
  Failure failure;
  failure.rank = frozen->rank;
  failure.host = host_name();
  failure.pid = frozen->pid;
  failure.signal = SIGKILL;
  failure.reason = str("the launcher ended it, because it ", to_text(frozen->look.still),
                       " for longer than ", seconds(limit(frozen->local)), " s (--freeze-timeout)");
  // It must not go on before it ends.
  for (auto& rank : ranks_)
    if (rank->rank() == frozen->rank) rank->signal(SIGKILL);
  end_ranks(SIGTERM, context_.spec.grace);
  convict(failure);
}

void Agent::convict(const Failure& failure) {
  log::warn("[launch] ", headline(failure), failure.rank < 0 ? "" : ": " + failure.reason);
  convicted_ = true;
  failure_ = failure;
  failed_after_ = now() - started_at_;
  report_failure();
}

bool Agent::progressed() {
  int64_t furthest = 0, counting = 0;
  for (const auto& each : context_.page->progress) {
    furthest = std::max(furthest, each.load());
    counting += each != 0 ? 1 : 0;
  }
  const bool further = furthest > furthest_;
  furthest_ = std::max(furthest_, furthest);
  return counting > 0 ? further : now() - started_at_ >= kLongRun;
}

// The job ends without these ranks. The kernel ends them when it can.
void Agent::give_up_unkillable() {
  for (auto& rank : ranks_) {
    if (!rank->running()) continue;
    const std::string why = to_text(look_at(rank->pid()).still);
    log::error("[launch] rank ", rank->rank(), " (pid ", rank->pid(), " on host ", host_name(),
               ") does not end ", seconds(kUnkillable), " s after SIGKILL",
               why.empty() ? "" : ": it " + why, "; the job ends without it");
    RankEnd& end = rank->give_up();
    end.seen_at = end.alive_at = now();
    end.after_signal = true;
  }
  drain_until_ = now();  // their later output does not matter
}

}  // namespace lockstep::launcher
