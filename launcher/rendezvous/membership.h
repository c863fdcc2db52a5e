// Membership: who takes part in a job, as which ranks, and how the job fares. A pure state machine:
// no threads, no sockets, no clock; time is an argument. Its server is a thin shell around it; its
// behaviour is written down in tests/launcher/rendezvous/testdata.
//
//   gathering ──all nodes joined──▶ running ──all nodes finished──▶ finished
//     │   ▲                          │  ▲
//     │   │                          │  │ all nodes drained: next epoch
//     │   │             restart left │  │
//     │   └─all drained, one lost────┼─ draining
//     │ too late                     │
//     └──────▶ failed ◀──────────────┘ no restart left
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

// One agent and its host.
struct Node {
  std::string node_id;  // unique per agent process
  std::string host;
  int pid = 0;
  int slots = 1;       // ranks that it runs
  int node_rank = -1;  // when joining: the one it wants, or -1; later: the one it has
  std::string master_addr;
  int master_port = 0;
  int first_rank = 0;
};

// The event may fit soon: it should be tried again.
class TryAgain : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

struct JobShape {
  std::string run_id;
  int nodes = 1;
  int max_restarts = 0;
  // A rank that ends with this code would do so again: it costs no restart, but the job.
  std::optional<int> final_code = {};
  // The ranks save and stop however early they are asked to. Those that a restart is about to start
  // are started all the same, for what is to be saved may be in memory alone.
  bool saves_when_stopped = false;
  // From the first join, and from when a lost node is to be replaced.
  Duration join_timeout = std::chrono::seconds(300);
  Duration lease = std::chrono::seconds(5);
  // A node whose connection broke may come back for this long.
  Duration reconnect = std::chrono::seconds(2);
};

// What every agent gets to see.
struct JobState {
  uint64_t version = 1;  // grows with every change
  uint64_t epoch = 0;    // of the membership; 1 when ranks first run
  Phase phase = Phase::gathering;
  std::vector<Node> nodes;  // by node_rank once running, by arrival before
  std::optional<Failure> failure;
  int restarts = 0;
  bool stopping = false;  // the job was asked to stop
  bool saved = false;     // some rank stopped after saving
  // False: a node is out of reach and may prove to be the cause of the failure.
  bool settled = true;
};

// Not thread-safe. `now` counts from any fixed moment and never goes back. Events that do not fit
// are refused with a UsageError whose text is meant for people; a refused event changes nothing.
// What a node reports it may report again, for the answer may have been lost; the second time
// changes nothing either.
class Membership {
 public:
  explicit Membership(JobShape shape);

  const JobState& state() const { return state_; }
  const JobShape& shape() const { return shape_; }

  // Throws TryAgain while it is not settled whether a place gets free: after a failure, and for a
  // lease where all seems well.
  void join(const std::string& run_id, const Node& node, int nodes, int max_restarts, Duration now);
  void heartbeat(const std::string& node_id, uint64_t epoch, Duration now);
  // The node's connection broke. Unless it reports again soon, it is lost.
  void disconnected(const std::string& node_id, Duration now);
  // The first failure of an epoch is the job's, except that a consequence gives way to its cause,
  // and that the node which reported it may report it better.
  void fail(const std::string& node_id, uint64_t epoch, const Failure& failure, Duration now);
  void finish(const std::string& node_id, uint64_t epoch, bool saved, Duration now);
  void drained(const std::string& node_id, uint64_t epoch, Duration now);
  void stop(const std::string& node_id, Duration now);
  void leave(const std::string& node_id, Duration now);

  // Lets time pass: leases and the join limit expire.
  void tick(Duration now);
  // When tick() will have something to do, if ever.
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
  std::vector<int> slots_;  // of the nodes by node rank, from the first epoch on: a new node takes
                            // the place of a lost one
  std::map<std::string, Duration>
      asked_at_;  // by nodes that are no members, for a place that may get free
  std::optional<Duration> gathering_since_;
  Duration failed_at_{};
  std::string failure_from_;  // the node that reported it
};

}  // namespace lockstep::launcher
