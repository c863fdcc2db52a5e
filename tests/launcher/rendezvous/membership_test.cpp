// Runs the scripts of testdata/: commands, "----", and what the membership must answer. To write
// the answers anew after a wanted change, run this test with LOCKSTEP_REWRITE=1 and read the
// difference.
#include "launcher/rendezvous/membership.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;

// "join a run=r slots=2": a verb, a node, and settings.
struct Command {
  std::string verb;
  std::string node;
  std::map<std::string, std::string> settings;

  explicit Command(const std::string& line) {
    std::istringstream words(line);
    words >> verb;
    std::string word;
    while (words >> word) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos && node.empty()) {
        node = word;
      } else {
        settings[word.substr(0, equals)] =
            equals == std::string::npos ? "yes" : word.substr(equals + 1);
      }
    }
  }
  std::string text(const std::string& key, const std::string& fallback) const {
    const auto found = settings.find(key);
    return found == settings.end() ? fallback : found->second;
  }
  int number(const std::string& key, int fallback) const {
    return std::stoi(text(key, std::to_string(fallback)));
  }
  bool has(const std::string& key) const { return settings.contains(key); }
};

std::string describe(const JobState& state) {
  std::string out = str("v", state.version, " ", to_string(state.phase), " epoch ", state.epoch);
  if (state.restarts > 0) out += str(" restarts ", state.restarts);
  for (const auto& node : state.nodes) {
    out += " | " + node.node_id;
    if (state.epoch > 0)
      out += str(" node ", node.node_rank, " ranks ", node.first_rank, "..",
                 node.first_rank + node.slots - 1);
    else if (node.node_rank >= 0)
      out += str(" wants ", node.node_rank);
  }
  if (state.stopping) out += " | stopping";
  if (state.saved) out += " | saved";
  if (!state.settled) out += " | unsettled";
  if (state.resizing) out += " | resizing";
  if (state.idle_restarts > 0) out += str(" | idle ", state.idle_restarts);
  if (state.failure) {
    out += "\n  failure: ";
    if (state.failure->rank >= 0)
      out += str("rank ", state.failure->rank,
                 state.failure->caused_by_peer ? " (because of a peer): "
                 : state.failure->stopped      ? " (stood still): "
                                               : ": ");
    out += state.failure->reason;
  }
  return out;
}

class Script {
 public:
  std::string run(const Command& command) {
    if (command.verb == "job") {
      JobShape shape;
      shape.run_id = "r";
      shape.nodes = command.number("nodes", 1);
      shape.min_nodes = command.number("least", 0);
      shape.max_restarts = command.number("restarts", 0);
      if (command.has("final")) shape.final_code = command.number("final", 0);
      shape.saves_when_stopped = command.has("saves");
      shape.join_timeout = std::chrono::seconds(command.number("join", 300));
      membership_ = std::make_unique<Membership>(shape);
      return describe(membership_->state());
    }
    const uint64_t before = membership_->state().version;
    try {
      apply(command);
    } catch (const UsageError& e) {
      return str(
          "refused: ", e.what(),
          before == membership_->state().version ? "" : "\n" + describe(membership_->state()));
    } catch (const TryAgain& e) {
      return str("try again: ", e.what());
    }
    return before == membership_->state().version ? "no change" : describe(membership_->state());
  }

 private:
  void apply(const Command& c) {
    Membership& m = *membership_;
    const auto epoch = static_cast<uint64_t>(c.number("epoch", static_cast<int>(m.state().epoch)));
    if (c.verb == "join") {
      Node node;
      node.node_id = c.node;
      node.host = "host-" + c.node;
      node.pid = 100;
      node.slots = c.number("slots", 1);
      node.min_slots = c.number("least", 0);
      node.node_rank = c.number("rank", -1);
      m.join(c.text("run", "r"), node, c.number("nodes", m.shape().nodes),
             c.number("restarts", m.shape().max_restarts), now_);
    } else if (c.verb == "heartbeat") {
      m.heartbeat(c.node, epoch, now_);
    } else if (c.verb == "fail") {
      Failure failure;
      failure.rank = c.number("rank", 0);
      failure.exit_code = c.number("code", 1);
      failure.signal = c.number("signal", 0);
      failure.caused_by_peer = c.has("peer");
      failure.stopped = c.has("stopped");
      failure.reason = c.text("reason", "boom");
      m.fail(c.node, epoch, failure, now_);
    } else if (c.verb == "finish") {
      m.finish(c.node, epoch, c.has("saved"), now_);
    } else if (c.verb == "drained") {
      m.drained(c.node, epoch, !c.has("idle"), now_);
    } else if (c.verb == "stop") {
      m.stop(c.node, now_);
    } else if (c.verb == "leave") {
      m.leave(c.node, now_);
    } else if (c.verb == "disconnect") {
      m.disconnected(c.node, now_);
    } else if (c.verb == "advance") {
      now_ += milliseconds(c.number("ms", 0));
      m.tick(now_);
    } else {
      ADD_FAILURE() << "unknown command " << c.verb;
    }
  }

  std::unique_ptr<Membership> membership_;
  Duration now_ = std::chrono::hours(1);  // any moment will do
};

// The file with every answer replaced by what the membership says now.
std::string replay(const std::string& path) {
  std::ifstream file(path);
  std::string out;
  std::string line;
  Script script;
  std::string answers;
  while (std::getline(file, line)) {
    if (line.empty() || line.starts_with('#')) {
      out += line + "\n";
    } else if (line == "----") {
      out += line + "\n" + answers;
      answers.clear();
      bool more = false;
      while ((more = static_cast<bool>(std::getline(file, line))) && !line.empty()) {
      }
      if (more) out += "\n";
    } else {
      out += line + "\n";
      answers += script.run(Command(line)) + "\n";
    }
  }
  return out;
}

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class MembershipScript : public testing::TestWithParam<std::string> {};

TEST_P(MembershipScript, answers_as_written) {
  const std::string path = str(LOCKSTEP_TESTDATA, "/", GetParam(), ".txt");
  ASSERT_TRUE(std::filesystem::exists(path)) << path;
  const std::string now = replay(path);
  if (std::getenv("LOCKSTEP_REWRITE")) std::ofstream(path) << now;
  EXPECT_EQ(contents(path), now);
}

INSTANTIATE_TEST_SUITE_P(Scripts, MembershipScript,
                         testing::Values("single_node", "two_nodes", "node_ranks", "refused",
                                         "failure", "restart", "lost_node", "another_node",
                                         "late_node", "stop_and_leave", "repeated", "elastic"),
                         [](const auto& each) { return each.param; });

TEST(Membership, refuses_a_shape_without_nodes) {
  EXPECT_THROW(Membership({.run_id = "r", .nodes = 0}), UsageError);
}

TEST(Membership, says_when_time_matters_next) {
  JobShape shape{.run_id = "r", .nodes = 2};
  Membership m(shape);
  EXPECT_FALSE(m.next_deadline().has_value());
  Node node;
  node.node_id = "a";
  m.join("r", node, 2, 0, std::chrono::seconds(10));
  EXPECT_EQ(*m.next_deadline(), std::chrono::seconds(15)) << "the lease of a";
  m.disconnected("a", std::chrono::seconds(11));
  EXPECT_EQ(*m.next_deadline(), std::chrono::seconds(13)) << "it may reconnect for two seconds";
}

}  // namespace
}  // namespace lockstep::launcher
