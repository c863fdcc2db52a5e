// Membership: who takes part in a job, with which ranks, and the state of the job. It is a pure
// state machine without threads, sockets or a clock: time is an argument. Its server is a thin
// shell around it. tests/launcher/rendezvous/testdata specifies its behaviour.
//
//   gathering ──enough nodes joined──▶ running ──all nodes finished──▶ finished
//     │   ▲                             │  ▲
//     │   │                             │  │ all nodes drained: next epoch
//     │   │      restart left, or fewer │  │
//     │   │      ranks will do          │  │
//     │   └─all drained, one lost───────┼─ draining ◀── a node joins late
//     │ too late                        │
//     └──────▶ failed ◀─────────────────┘ neither
//
// A node that is silent may still live, and its ranks may still write. So a new epoch begins
// without it only after ranks_may_run() has passed since its last message, and a margin more.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "launcher/base/failure.h"

namespace lockstep::launcher {

enum class Phase { gathering, running, draining, finished, failed };
const char* to_string(Phase phase);

// How long ranks may run after the last message of their agent that was answered, and when the next
// epoch may begin after it. The time between them is for what a rank has begun.
constexpr Duration ranks_may_run(Duration lease) { return lease * 6 / 10; }
constexpr Duration others_may_follow(Duration lease) { return lease * 8 / 10; }

// The wait before the next restart after `idle` restarts in a row without progress.
Duration backoff_after(int idle);

// One agent and its host.
struct Node {
  std::string node_id;  // unique per agent process
  std::string host;
  int pid = 0;
  int slots = 1;  // number of ranks that it runs
  // With how few it would go on. 0: only with all.
  int min_slots = 0;
  // In a request, the wanted node rank or -1. Later the assigned one.
  int node_rank = -1;
  std::string master_addr;
  int master_port = 0;
  int first_rank = 0;
};

// The event may become possible soon. Try it again.
class TryAgain : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

struct JobShape {
  std::string run_id;
  int nodes = 1;
  // With how few nodes the job begins and goes on. 0: only with all. Less than `nodes`: the job is
  // elastic. Nodes may then be lost and may join late, and no restart is counted for that.
  int min_nodes = 0;
  int max_restarts = 0;
  // A rank that ends with this code would do so again. The job then fails without a restart.
  std::optional<int> final_code = {};
  // The ranks save and stop however early they are asked to. If a restart is about to start them,
  // they are still started: what they save may exist in memory only.
  bool saves_when_stopped = false;
  // Counts from the first join, and again from when a lost node must be replaced.
  Duration join_timeout = std::chrono::seconds(300);
  // An elastic job waits this long for more nodes.
  Duration spare_timeout = std::chrono::seconds(10);
  // After so many restarts in a row without progress, the job fails.
  int most_idle_restarts = 3;
  Duration lease = std::chrono::seconds(5);
  // A node whose connection broke may come back for this long.
  Duration reconnect = std::chrono::seconds(2);
};

// What every agent sees.
struct JobState {
  uint64_t version = 1;  // grows with every change
  uint64_t epoch = 0;    // of the membership; 1 when ranks first run
  Phase phase = Phase::gathering;
  // Of this epoch, by node_rank once running, by arrival before.
  std::vector<Node> nodes;
  std::optional<Failure> failure;
  int restarts = 0;
  bool stopping = false;  // the job was asked to stop
  bool saved = false;     // some rank stopped after saving
  // False: a node is out of reach and may turn out to be the cause of the failure.
  bool settled = true;
  // While draining: nothing has failed. A node has joined late, and ranks should save and end.
  bool resizing = false;
  int idle_restarts = 0;  // restarts in a row, up to now, without progress
  Duration lease{};       // JobShape::lease
};

// Not thread-safe. `now` counts from any fixed moment and never decreases. An event that does not
// fit is refused with a UsageError, whose text is for people, and changes nothing. A node may
// repeat a report, because the answer may have been lost. A repeated report changes nothing.
class Membership {
 public:
  explicit Membership(JobShape shape);

  const JobState& state() const { return state_; }
  const JobShape& shape() const { return shape_; }

  // Throws TryAgain while a place may still become free: after a failure, and otherwise for the
  // time of one lease.
  void join(const std::string& run_id, const Node& node, int nodes, int max_restarts, Duration now);
  void heartbeat(const std::string& node_id, uint64_t epoch, Duration now);
  // The node's connection broke. Unless the node reports again soon, it is lost.
  void disconnected(const std::string& node_id, Duration now);
  // The first failure of an epoch is the job's failure, with two exceptions. A consequence gives
  // way to its cause, and the node that reported the failure may report it more precisely.
  void fail(const std::string& node_id, uint64_t epoch, const Failure& failure, Duration now);
  void finish(const std::string& node_id, uint64_t epoch, bool saved, Duration now);
  // `progressed`: whether the ranks here had done something that the next ones need not repeat.
  void drained(const std::string& node_id, uint64_t epoch, bool progressed, Duration now);
  void stop(const std::string& node_id, Duration now);
  void leave(const std::string& node_id, Duration now);

  // Throws if a rank of this epoch must not use the store, because a later epoch has begun. 0: no
  // epoch.
  void check_epoch_of_rank(uint64_t epoch) const;

  // Lets time pass: expires leases and the join limit.
  void tick(Duration now);
  // When tick() next has work, if ever.
  std::optional<Duration> next_deadline() const;
  // Whether any agent still takes part.
  bool empty() const { return members_.empty(); }

 private:
  struct Member {
    Node node;
    Duration last_seen{};
    std::optional<Duration> disconnected_at;
    bool finished = false;
    bool drained = false;
    int arrival = 0;
  };

  Member& member(const std::string& node_id);
  Member& member_in_epoch(const std::string& node_id, uint64_t epoch, Duration now);
  void check_node_rank(const Node& node) const;
  int place_for(const Node& node) const;
  void check_no_loss(const std::string& node_id, Duration now);
  Duration lease_end(const Member& member) const;
  void close_roster();
  void begin_epoch();
  void begin_epoch_if_drained(Duration now);
  void begin_epoch_if_complete(Duration now);
  bool prepare_next_epoch(Duration now);
  bool drop_rank(const Failure& failure);
  bool may_drop_a_rank() const;
  void resize();
  bool elastic() const { return least_nodes() < shape_.nodes; }
  int least_nodes() const { return shape_.min_nodes > 0 ? shape_.min_nodes : shape_.nodes; }
  int node_count() const { return static_cast<int>(members_.size()); }
  bool waits_for_spares() const { return state_.epoch == 0 || node_lost_; }
  Duration limit_of_gathering() const;
  void end_epoch(const Failure& failure, Duration now);
  void lose(const Member& lost, Duration now);
  bool wants_next_epoch() const;
  void settle();
  bool restarts_left() const { return state_.restarts < shape_.max_restarts && !state_.stopping; }
  void changed() { ++state_.version; }
  std::string missing_text() const;

  JobShape shape_;
  JobState state_;
  std::map<std::string, Member> members_;
  // Ranks of the nodes by node rank, from the first epoch on. A new node takes the place of a lost
  // one.
  std::vector<int> slots_;
  // When nodes that are not members last asked for a place that may become free.
  std::map<std::string, Duration> asked_at_;
  std::optional<Duration> gathering_since_;
  Duration last_joined_{};
  int arrivals_ = 0;
  // The next epoch begins no earlier.
  Duration not_before_{};
  bool node_lost_ = false;   // in this epoch
  bool progressed_ = false;  // some rank of this epoch
  Duration failed_at_{};
  std::string failure_from_;  // the node that reported it
};

}  // namespace lockstep::launcher
