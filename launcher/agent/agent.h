// Agent: starts this host's ranks when the membership says so, watches them, and reports to the
// membership. One thread does all of it, in one loop around poll(). The loop waits for news of the
// job, signals, output and ends of ranks, and time limits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/agent/courier.h"
#include "launcher/agent/frozen.h"
#include "launcher/agent/log_tree.h"
#include "launcher/agent/roster.h"
#include "launcher/base/launch_spec.h"
#include "launcher/process/guardian.h"
#include "launcher/process/memory_file.h"
#include "launcher/process/rank_process.h"
#include "launcher/process/shared_page.h"
#include "launcher/process/stop_signals.h"
#include "launcher/process/wakeup.h"
#include "launcher/rendezvous/client.h"

namespace lockstep::launcher {

// What one agent works with. All of it outlives the agent.
struct AgentContext {
  const LaunchSpec& spec;
  std::string program;  // path of the file
  std::string run_id;
  std::string node_id;
  Endpoint store;  // as the ranks of this host reach it
  SharedPage& page;
  Guardian& guardian;
  StopSignals& signals;
  RendezvousClient& client;
  Courier& courier;
  Wakeup& wakeup;
  ScreenWriter& screen;
  LogTree* logs = nullptr;  // null: as LaunchSpec::log_dir says
};

class Agent {
 public:
  explicit Agent(AgentContext context);
  // Calls `join` on the courier's thread and rethrows what it throws. Returns when the job has
  // ended.
  LaunchResult run(std::function<void()> join);
  // Everything that the stop signals have asked for so far.
  const StopWish& wish() const { return wish_; }
  // Whether a second, impatient request to stop has come. The agent then waits for nothing.
  bool insisted() const { return insisted_at_.has_value(); }
  bool joined() const { return stage_ != Stage::joining; }

 private:
  enum class Stage {
    joining,     // the rendezvous has not admitted this node yet
    waiting,     // no ranks run here; the job may continue or be over
    active,      // the ranks of job_.epoch were started and are not concluded yet
    concluding,  // the ranks have ended; the agent is telling the rendezvous how
  };

  void follow_job();
  void follow_job_while_waiting(const std::string& lost);
  void follow_job_while_active(const std::string& lost);
  void say_who_is_missing();
  void say_what_changed() const;
  // Whether the nodes are those with which the last epoch began.
  bool same_nodes() const;
  void start_ranks();
  std::unique_ptr<RankProcess> start_rank(const Node& self, int local_rank);
  void end_ranks(int signal, Duration grace);
  void handle_signals();
  void ask_to_stop(int signal);
  void pass_on_usr1();
  bool stop_before_ranks() const;
  bool active() const { return stage_ == Stage::active; }
  void wait_for_events();
  void collect_ends(Duration alive_at);
  bool collect_ended(Duration alive_at);
  void check_limits();
  void give_up_unkillable();
  // Kills the ranks if this node's lease has passed: the others may go on without it.
  void end_without_lease();
  void end_frozen();
  // Ends the ranks because of what the agent itself has found.
  void convict(const Failure& failure);
  // Whether the ranks of this epoch came further than those of all earlier ones.
  bool progressed();
  void conclude_epoch();
  void conclude_with_answer();
  int code_of_stop(int signal) const;

  void report_failure();
  bool all_ended() const;
  bool all_saved() const;
  // Whether ranks left something in memory for the next epoch.
  bool keeps_memory() const;
  // Whether some rank has ended and said that it had saved.
  bool any_saved() const;
  RankOutput::Options output_options(int local_rank, int rank) const;
  Failure failure_of(const RankEnd& end) const;
  std::vector<RankEnd> ends() const;
  std::optional<Failure> local_failure() const;
  // Returns `failure`, the one of this host if there is one. If it (or else the job's failure)
  // blames a peer, and a rank of this host stood still, returns that rank's failure instead.
  std::optional<Failure> blame_frozen(std::optional<Failure> failure) const;
  // Whether `failure` only says that a rank ended because the agent told it to, after the
  // rendezvous was lost.
  bool follows_loss(const Failure& failure) const;
  LaunchResult result();
  int code_of(const Failure& failure) const;

  AgentContext context_;
  JobState job_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  // By local rank: what its processes leave for those of the next epoch.
  std::vector<std::unique_ptr<MemoryFile>> kept_;
  Stage stage_ = Stage::joining;
  bool done_ = false;
  uint64_t epoch_ = 0;                 // of ranks_
  std::vector<std::string> node_ids_;  // of that epoch
  Roster roster_;
  int world_ = 0;  // its number of ranks
  // The restart at which the agent last said that a node is missing.
  int told_to_wait_at_ = 0;
  Duration started_at_{};
  Duration failed_after_{};
  long oom_kills_before_ = 0;

  // When the agent told the ranks of this epoch to end.
  std::optional<Duration> signalled_at_;
  bool signalled_for_loss_ = false;  // it did so because it had lost the rendezvous
  std::optional<Duration> kill_at_;
  // The last look at the ranks before the first failure of this epoch.
  std::optional<Duration> alive_before_failure_;
  // All ranks have ended. Until then the agent waits for the rest of their output.
  std::optional<Duration> drain_until_;
  // When the agent killed the ranks of this epoch that were still running.
  std::optional<Duration> killed_at_;
  StopWish wish_;
  int stop_signal_ = 0;  // the signal that asked to stop
  std::optional<Duration> insisted_at_;
  bool usr1_waits_ = false;  // SIGUSR1 came while no ranks ran
  // SIGUSR1 was passed on. Ranks may save and stop because of it.
  bool passed_usr1_ = false;
  bool terminated_ = false;         // some rank ended by our signal instead of saving
  std::optional<Failure> failure_;  // the one reported for this epoch
  bool convicted_ = false;          // failure_ is what the agent itself has found
  int64_t fenced_before_ = 0;       // AgentPage::fenced when the ranks were started
  int64_t furthest_ = 0;            // the most steps that a rank has done in any epoch
  uint64_t drained_epoch_ = 0;      // the last epoch whose end was reported

  FrozenRanks frozen_;
  // The rank that had stood still for longest when the first failure was seen.
  std::optional<FrozenRank> frozen_at_failure_;
  // Until then the agent waits at the end for a node that knows the cause.
  std::optional<Duration> cause_until_;
};

}  // namespace lockstep::launcher
