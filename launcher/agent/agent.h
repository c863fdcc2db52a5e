// Agent: starts this host's ranks when the membership says so, watches them, and tells the
// membership how they fare. One thread does all of it in one loop around poll(): news of the job,
// signals, output and ends of ranks, time limits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/agent/courier.h"
#include "launcher/agent/frozen.h"
#include "launcher/base/launch_spec.h"
#include "launcher/process/guardian.h"
#include "launcher/process/memory_file.h"
#include "launcher/process/rank_process.h"
#include "launcher/process/stop_signals.h"
#include "launcher/process/wakeup.h"
#include "launcher/rendezvous/client.h"

namespace lockstep::launcher {

// What one agent works with; all of it outlives the agent.
struct AgentContext {
  const LaunchSpec& spec;
  std::string program;  // a path
  std::string run_id;
  std::string node_id;
  Endpoint store;  // as the ranks of this host reach it
  Guardian& guardian;
  StopSignals& signals;
  RendezvousClient& client;
  Courier& courier;
  Wakeup& wakeup;
  ScreenWriter& screen;
};

class Agent {
 public:
  explicit Agent(AgentContext context);
  // `join` makes the client join, on the courier's thread; what it throws is thrown here. Returns
  // when the job has ended.
  LaunchResult run(std::function<void()> join);
  const StopWish& wish() const { return wish_; }  // what the signals so far add up to
  // Somebody asked again, impatiently: nothing is to be waited for any more.
  bool insisted() const { return insisted_at_.has_value(); }
  bool joined() const { return stage_ != Stage::joining; }

 private:
  enum class Stage {
    joining,     // the rendezvous has not let this node in yet
    waiting,     // no ranks run here; the job may go on or be over
    active,      // ranks of job_.epoch were started and are not concluded yet
    concluding,  // they have ended, and the rendezvous is being told how
  };

  void follow_job();
  void follow_job_while_waiting(const std::string& lost);
  void follow_job_while_active(const std::string& lost);
  void say_who_is_missing();
  bool same_nodes() const;  // as those with which the ranks of the last epoch began
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
  void conclude_epoch();
  void conclude_with_answer();
  int code_of_stop(int signal) const;

  void report_failure();
  bool all_ended() const;
  bool all_saved() const;
  bool keeps_memory() const;  // ranks left something for those of a next epoch
  bool any_saved() const;     // some rank has ended and said that it had saved
  RankOutput::Options output_options(int local_rank, int rank) const;
  Failure failure_of(const RankEnd& end) const;
  std::vector<RankEnd> ends() const;
  std::optional<Failure> local_failure() const;
  // `failure` of this host, or the one of another host, with its cause in place of it where that is
  // a rank here that stood still.
  std::optional<Failure> blame_frozen(std::optional<Failure> failure) const;
  // Whether it is no more than what became of a rank that was told to end because the rendezvous
  // was lost.
  bool follows_loss(const Failure& failure) const;
  LaunchResult result();
  int code_of(const Failure& failure) const;

  AgentContext context_;
  JobState job_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::vector<std::unique_ptr<MemoryFile>>
      kept_;  // by local rank: what its processes leave for those of the next epoch
  Stage stage_ = Stage::joining;
  bool done_ = false;
  uint64_t epoch_ = 0;                 // of ranks_
  std::vector<std::string> node_ids_;  // of that epoch
  int told_to_wait_at_ = 0;            // the restart for which it was said that a node is missing
  Duration started_at_{};
  Duration failed_after_{};
  long oom_kills_before_ = 0;

  std::optional<Duration> signalled_at_;  // when the agent told the ranks of this epoch to end
  bool signalled_for_loss_ = false;       // because it had lost the rendezvous
  std::optional<Duration> kill_at_;
  std::optional<Duration>
      alive_before_failure_;  // when the agent last looked before the first failure of this epoch
  std::optional<Duration>
      drain_until_;  // all ranks have ended; their output may still be on its way
  std::optional<Duration>
      killed_at_;  // when the agent killed the ranks of this epoch that were left
  StopWish wish_;
  int stop_signal_ = 0;  // the one that asked
  std::optional<Duration> insisted_at_;
  bool usr1_waits_ = false;         // SIGUSR1 came while no ranks ran
  bool passed_usr1_ = false;        // it was passed on, and ranks may save and stop on it
  bool terminated_ = false;         // some rank ended by our signal instead of saving
  std::optional<Failure> failure_;  // the one reported for this epoch

  FrozenRanks frozen_;
  std::optional<FrozenRank>
      frozen_at_failure_;                // the one for longest, when the first failure was seen
  std::optional<Duration> cause_until_;  // until when the end waits for a node that knows the cause
};

}  // namespace lockstep::launcher
