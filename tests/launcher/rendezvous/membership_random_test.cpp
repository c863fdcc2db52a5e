// A simulated job: nodes and ranks as the agents drive them, a network that loses, delays and cuts
// off, and the real membership. Time is simulated, and a seed repeats a schedule.
// LOCKSTEP_SCHEDULES sets their number, LOCKSTEP_SEED the first one.
#include <cstdlib>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
constexpr Duration kStep = milliseconds(100);

// One agent and its ranks.
struct Agent {
  std::string id;
  Node node;
  bool joined = false;
  bool gone = false;        // killed, or refused
  Duration frozen_until{};  // the agent does nothing; its guardian does
  Duration cut_until{};     // messages in both directions are lost
  Duration deaf_until{};    // its messages arrive, answers do not
  Duration lease_until{};   // until which its ranks may run
  uint64_t epoch = 0;       // of its ranks
  bool running = false;     // they may write
  bool finished = false, drained = false;
  JobState seen = {};
};

class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {
    shape_.run_id = "r";
    shape_.nodes = below(3) + 1;
    shape_.min_nodes = below(2) == 0 ? 0 : below(shape_.nodes) + 1;
    shape_.max_restarts = below(4);
    shape_.most_idle_restarts = 1000;
    shape_.spare_timeout = milliseconds(below(5000));
    membership_ = std::make_unique<Membership>(shape_);
    for (int i = 0; i < shape_.nodes; ++i) start_agent();
  }

  // Returns what went wrong; empty: nothing.
  std::string run() {
    for (int step = 0; step < 600 && problem_.empty() && !over(); ++step) advance(true);
    // Faults stop: the job must get somewhere.
    for (Agent& each : agents_) each.frozen_until = each.cut_until = each.deaf_until = {};
    for (int step = 0; step < 5000 && problem_.empty() && !over(); ++step) {
      if (step == 300) may_finish_ = true;
      advance(false);
    }
    if (problem_.empty() && !over())
      problem_ = str("no end: ", to_string(state().phase), " epoch ", state().epoch);
    return problem_;
  }

 private:
  const JobState& state() const { return membership_->state(); }
  bool over() const { return state().phase == Phase::finished || state().phase == Phase::failed; }
  int below(int end) { return static_cast<int>(random_() % static_cast<uint64_t>(end)); }
  bool one_in(int n) { return below(n) == 0; }

  void start_agent() {
    Agent agent;
    agent.id = str("n", agents_.size());
    agent.node.node_id = agent.id;
    agent.node.host = agent.id;
    agent.node.slots = 2;
    agent.node.min_slots = static_cast<int>(agents_.size()) % 2;
    agents_.push_back(agent);
  }

  void advance(bool faults) {
    now_ += kStep;
    if (faults && one_in(40)) break_something();
    membership_->tick(now_);
    look_at_epoch();
    for (Agent& each : agents_) {
      if (each.gone) continue;
      if (each.running && now_ >= each.lease_until) each.running = false;  // the guardian, or ranks
      if (now_ >= each.frozen_until) act(each);
      if (each.running) write(each);
      look_at_epoch();
    }
    int alive = 0;
    for (const Agent& each : agents_) alive += each.gone ? 0 : 1;
    if (alive < shape_.nodes + 1 && one_in(20)) start_agent();  // a spare
  }

  void break_something() {
    Agent& victim = agents_[static_cast<size_t>(below(static_cast<int>(agents_.size())))];
    const Duration until = now_ + milliseconds(below(20000));
    switch (below(5)) {
      case 0: victim.frozen_until = until; break;
      case 1: victim.cut_until = until; break;
      case 2: victim.deaf_until = until; break;
      case 3:  // it lives, but its connection broke
        victim.cut_until = until;
        if (victim.joined) membership_->disconnected(victim.id, now_);
        break;
      default:  // it is killed, and its ranks with it
        victim.gone = true;
        victim.running = false;
        if (victim.joined) membership_->disconnected(victim.id, now_);
    }
  }

  // Sends a message, and renews the lease if the answer comes.
  template <typename Message>
  bool tell(Agent& agent, const Message& message) {
    if (now_ < agent.cut_until) return false;
    try {
      message();
    } catch (const UsageError&) {
      if (now_ >= agent.deaf_until) agent.gone = true, agent.running = false;
      return false;
    } catch (const TryAgain&) {
      return false;
    }
    if (now_ < agent.deaf_until) return false;
    agent.lease_until = now_ + ranks_may_run(shape_.lease);
    agent.seen = state();
    return true;
  }

  void act(Agent& agent) {
    Membership& m = *membership_;
    if (!agent.joined) {
      // An answer that is lost leaves a member that its agent knows nothing of.
      agent.joined =
          tell(agent, [&] { m.join("r", agent.node, shape_.nodes, shape_.max_restarts, now_); });
      return;
    }
    if (!one_in(3)) return;  // not every agent acts at every step
    if (!tell(agent, [&] { m.heartbeat(agent.id, agent.seen.epoch, now_); })) return;
    const JobState& job = agent.seen;
    if (job.phase == Phase::running && job.epoch > agent.epoch) {
      agent.epoch = job.epoch;
      agent.running = true;
      agent.finished = agent.drained = false;
    } else if (job.phase == Phase::running && job.epoch == agent.epoch && !agent.finished) {
      if (!agent.running || one_in(200)) {
        agent.running = false;
        Failure failure;
        failure.rank = one_in(2) ? rank_of(agent) : -1;
        failure.caused_by_peer = failure.rank >= 0 && one_in(4);
        tell(agent, [&] { m.fail(agent.id, agent.epoch, failure, now_); });
      } else if (may_finish_) {
        agent.finished = true;
        agent.running = false;
        tell(agent, [&] { m.finish(agent.id, agent.epoch, false, now_); });
      }
    } else if (job.phase == Phase::draining) {
      agent.running = false;
      agent.epoch = std::max(agent.epoch, job.epoch);
      tell(agent, [&] { m.drained(agent.id, job.epoch, one_in(2), now_); });
    }
  }

  static int rank_of(const Agent& agent) {
    for (const Node& node : agent.seen.nodes)
      if (node.node_id == agent.id) return node.first_rank;
    return -1;
  }

  // A rank writes, and its store call carries its epoch.
  void write(const Agent& agent) {
    if (agent.epoch < newest_written_)
      problem_ = str(agent.id, " writes in epoch ", agent.epoch, " after a write of epoch ",
                     newest_written_);
    newest_written_ = std::max(newest_written_, agent.epoch);
  }

  void look_at_epoch() {
    const JobState& job = state();
    if (job.epoch < epoch_ || job.epoch > epoch_ + 1)
      problem_ = str("from epoch ", epoch_, " to ", job.epoch);
    if (job.epoch == epoch_) return;
    epoch_ = job.epoch;
    int next = 0, place = 0;
    std::map<std::string, int> seen;
    for (const Node& node : job.nodes) {
      if (node.first_rank != next || node.node_rank != place++ || node.slots < 1 ||
          ++seen[node.node_id] > 1)
        problem_ = str("epoch ", epoch_, ": ranks or nodes twice, or gaps");
      next += node.slots;
    }
    const int least = shape_.min_nodes > 0 ? shape_.min_nodes : shape_.nodes;
    if (place < least || place > shape_.nodes)
      problem_ = str("epoch ", epoch_, " has ", place, " nodes");
    for (const Agent& each : agents_)
      if (each.running && each.epoch < epoch_)
        problem_ =
            str("epoch ", epoch_, " begins while ", each.id, " may write in epoch ", each.epoch);
  }

  std::mt19937_64 random_;
  JobShape shape_;
  std::unique_ptr<Membership> membership_;
  std::vector<Agent> agents_;
  Duration now_ = std::chrono::hours(1);
  uint64_t epoch_ = 0, newest_written_ = 0;
  bool may_finish_ = false;
  std::string problem_;
};

TEST(MembershipRandom, one_epoch_at_a_time_and_an_end_once_faults_stop) {
  const auto number = [](const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
  };
  const uint64_t first = number("LOCKSTEP_SEED", 1), count = number("LOCKSTEP_SCHEDULES", 3000);
  for (uint64_t seed = first; seed < first + count; ++seed)
    ASSERT_EQ(World(seed).run(), "") << "LOCKSTEP_SEED=" << seed << " LOCKSTEP_SCHEDULES=1";
}

}  // namespace
}  // namespace lockstep::launcher
