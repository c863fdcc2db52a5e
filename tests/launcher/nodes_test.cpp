// Several agents on this host, each as a node.
#include <gmock/gmock.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::shell;
using test::Watched;
using testing::HasSubstr;
using testing::Not;

LaunchSpec node(int rank, int port, int nproc, const std::string& script) {
  LaunchSpec spec = shell(nproc, script);
  spec.nodes = 2;
  spec.node_rank = rank;
  spec.endpoint = str("127.0.0.1:", port);
  spec.run_id = "r";
  return spec;
}

TEST(Nodes, two_agents_are_one_job) {
  const int port = free_port("127.0.0.1");
  const char* script =
      "echo $RANK of $WORLD_SIZE node $GROUP_RANK local $LOCAL_RANK of $LOCAL_WORLD_SIZE master "
      "$MASTER_PORT";
  AgentProcess second(node(1, port, 2, script));  // before the rendezvous is there
  AgentProcess first(node(0, port, 1, script));
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_EQ(second.finish(), 0) << second.output();
  EXPECT_THAT(first.output(), HasSubstr("[rank 0] 0 of 3 node 0 local 0 of 1 master "));
  EXPECT_THAT(second.output(), HasSubstr("[rank 1] 1 of 3 node 1 local 0 of 2 master "));
  EXPECT_THAT(second.output(), HasSubstr("[rank 2] 2 of 3 node 1 local 1 of 2 master "));
  EXPECT_EQ(first.number_after("master "), second.number_after("master "));
}

TEST(Nodes, with_a_token_ranks_get_a_file_and_no_secret_in_their_environment) {
  const int port = free_port("127.0.0.1");
  const std::string token(64, 'a');
  const char* script =
      "echo text ${LOCKSTEP_JOB_TOKEN:-none} length $(wc -c < $LOCKSTEP_JOB_TOKEN_FILE) mode "
      "$(stat -L -c %a $LOCKSTEP_JOB_TOKEN_FILE)";
  const auto told = [&] { ::setenv("LOCKSTEP_JOB_TOKEN", token.c_str(), 1); };
  AgentProcess second(node(1, port, 1, script), told);
  AgentProcess first(node(0, port, 1, script), told);
  for (auto* agent : {&first, &second}) {
    EXPECT_EQ(agent->finish(), 0) << agent->output();
    EXPECT_THAT(agent->output(), HasSubstr("text none length 64 mode 600"));
    EXPECT_THAT(agent->output(), Not(HasSubstr(token)));
  }
}

TEST(Nodes, on_other_machines_need_a_token_or_an_explicit_wish) {
  LaunchSpec spec = node(0, 0, 1, "echo never");
  spec.endpoint = "192.0.2.1:29400";  // an address of nobody (RFC 5737)
  AgentProcess untold(spec);
  EXPECT_EQ(untold.finish(), 2);
  EXPECT_THAT(untold.output(), HasSubstr("2 nodes meet at 192.0.2.1:29400, and this job has no "
                                         "token: make a token with `lockstep token FILE`"));
  spec.plaintext = true;
  AgentProcess wished(spec);
  EXPECT_EQ(wished.finish(), 1);
  EXPECT_THAT(wished.output(), HasSubstr("its traffic is clear text"));
  EXPECT_THAT(wished.output(), HasSubstr("cannot listen at 192.0.2.1:29400"));
}

TEST(Nodes, without_node_ranks_whoever_binds_the_port_serves) {
  const int port = free_port("127.0.0.1");
  AgentProcess a(node(-1, port, 1, "echo rank $RANK"));
  AgentProcess b(node(-1, port, 1, "echo rank $RANK"));
  EXPECT_EQ(a.finish(), 0) << a.output();
  EXPECT_EQ(b.finish(), 0) << b.output();
  EXPECT_NE(a.says("rank 0"), b.says("rank 0"));
}

TEST(Nodes, a_failure_on_one_ends_the_other_with_the_same_words) {
  const int port = free_port("127.0.0.1");
  const char* script = "echo ready; [ $RANK = 1 ] && { echo bad data >&2; exit 6; }; sleep 1000";
  AgentProcess first(node(0, port, 1, script));
  AgentProcess second(node(1, port, 1, script));
  EXPECT_EQ(first.finish(), 6);
  EXPECT_EQ(second.finish(), 6);
  for (const auto* agent : {&first, &second}) {
    EXPECT_THAT(agent->output(), HasSubstr("┌ rank 1 on host "));
    EXPECT_THAT(agent->output(), HasSubstr("exit code 6"));
    EXPECT_THAT(agent->output(), HasSubstr("│   bad data\n"));
  }
  EXPECT_THAT(first.output(), HasSubstr("rank 0: ended by the launcher"));
}

TEST(Nodes, a_lost_node_ends_the_job_and_is_named) {
  const int port = free_port("127.0.0.1");
  AgentProcess first(node(0, port, 1, "echo ready; sleep 1000"));
  AgentProcess second(node(1, port, 1, "echo ready $$; sleep 1000"));
  ASSERT_TRUE(first.wait_for("ready")) << first.output();
  const Watched rank(second.number_after("ready "));
  second.signal(SIGKILL);
  EXPECT_TRUE(rank.ended());
  EXPECT_EQ(first.finish(), 1);
  EXPECT_THAT(first.output(), HasSubstr("node 1 on "));
  EXPECT_THAT(first.output(), HasSubstr("was lost"));
}

TEST(Nodes, a_lost_rendezvous_ends_the_others) {
  const int port = free_port("127.0.0.1");
  AgentProcess first(node(0, port, 1, "echo ready; sleep 1000"));
  AgentProcess second(node(1, port, 1, "echo ready; sleep 1000"));
  ASSERT_TRUE(second.wait_for("ready")) << second.output();
  first.signal(SIGKILL);
  EXPECT_EQ(second.finish(), 1);
  EXPECT_THAT(second.output(), HasSubstr(str("lost contact with 127.0.0.1:", port)));
}

TEST(Nodes, a_lost_rendezvous_is_the_cause_of_what_it_did_to_ranks) {
  test::Scratch scratch;
  const int port = free_port("127.0.0.1");
  AgentProcess first(node(0, port, 1, "exec 3> " + scratch.gate() + "; echo ready; sleep 1000"));
  // Its rank learns of the end of the other one before the agent does.
  AgentProcess second(node(1, port, 1,
                           "read line < " + scratch.gate() +
                               "; echo '{\"message\":\"rank 0 died\",\"caused_by_peer\":true}' > "
                               "$LOCKSTEP_ERROR_FILE; exit 7"));
  ASSERT_TRUE(first.wait_for("ready")) << first.output();
  first.signal(SIGKILL);
  EXPECT_EQ(second.finish(), 1);
  EXPECT_THAT(second.output(), HasSubstr(str("┌ [rendezvous] lost contact with 127.0.0.1:", port)));
  EXPECT_THAT(second.output(), HasSubstr("│ rank 1: exit code 7, later: rank 0 died\n"));
}

TEST(Nodes, a_lost_rendezvous_is_the_cause_of_how_ranks_end_that_are_told_to) {
  const int port = free_port("127.0.0.1");
  AgentProcess first(node(0, port, 1, "echo ready; sleep 1000"));
  AgentProcess second(
      node(1, port, 1, "trap 'exit 5' TERM; echo ready; while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(first.wait_for("ready") && second.wait_for("ready"))
      << first.output() << second.output();
  first.signal(SIGKILL);
  EXPECT_EQ(second.finish(), 1);
  EXPECT_THAT(second.output(), HasSubstr(str("┌ [rendezvous] lost contact with 127.0.0.1:", port)));
  EXPECT_THAT(second.output(),
              HasSubstr("│ rank 1: exit code 5, after the launcher had told it to end\n"));
}

TEST(Nodes, a_rank_that_is_stopped_on_one_is_the_cause_of_what_the_other_reports) {
  test::Scratch scratch;
  const int port = free_port("127.0.0.1");
  AgentProcess first(node(0, port, 1,
                          "read line < " + scratch.gate() +
                              "; echo '{\"message\":\"no rank 1\",\"caused_by_peer\":true}' > "
                              "$LOCKSTEP_ERROR_FILE; exit 7"));
  AgentProcess second(node(1, port, 1, "kill -STOP $$; sleep 1000"));
  ASSERT_TRUE(second.wait_for("is stopped (state T)")) << second.output();
  const int gate = ::open(scratch.gate().c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::write(gate, "\n", 1), 1);
  ::close(gate);
  for (auto* agent : {&first, &second}) {
    EXPECT_EQ(agent->finish(), 7);
    EXPECT_THAT(agent->output(), HasSubstr("┌ rank 1 on host "));
    EXPECT_THAT(agent->output(), HasSubstr("stood still until the others gave up waiting for it"));
  }
}

TEST(Nodes, a_restart_takes_all_nodes_along) {
  const int port = free_port("127.0.0.1");
  const char* script =
      "echo rank $RANK epoch $LOCKSTEP_EPOCH; [ $LOCKSTEP_EPOCH = 2 ] && exit 0; [ $RANK = 1 ] && "
      "exit 5; sleep 1000";
  LaunchSpec specs[2] = {node(0, port, 1, script), node(1, port, 1, script)};
  for (auto& spec : specs) spec.max_restarts = 1;
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_EQ(second.finish(), 0) << second.output();
  EXPECT_THAT(first.output(), HasSubstr("[rank 0] rank 0 epoch 2\n"));
  EXPECT_THAT(second.output(), HasSubstr("[rank 1] rank 1 epoch 2\n"));
}

TEST(Nodes, another_agent_takes_the_place_of_one_that_was_lost) {
  const int port = free_port("127.0.0.1");
  const char* script =
      "cat $LOCKSTEP_KEPT_MEMORY; echo rank $RANK epoch $LOCKSTEP_EPOCH; echo left by rank $RANK > "
      "$LOCKSTEP_KEPT_MEMORY; "
      "[ $LOCKSTEP_EPOCH = 2 ] && exit 0; sleep 1000";
  LaunchSpec specs[2] = {node(0, port, 1, script), node(1, port, 2, script)};
  for (auto& spec : specs) spec.max_restarts = 1;
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("epoch 1") && second.wait_for("rank 1 epoch 1") &&
              second.wait_for("rank 2 epoch 1"))
      << first.output();
  second.signal(SIGKILL);
  AgentProcess third(specs[1]);  // at once: it is told to come again until the place is free
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_EQ(third.finish(), 0) << third.output();
  EXPECT_THAT(first.output(), HasSubstr("waiting for another one in its place"));
  EXPECT_THAT(first.output(), HasSubstr("[rank 0] left by rank 0\n[rank 0] rank 0 epoch 2\n"));
  EXPECT_THAT(third.output(), HasSubstr("[rank 1] rank 1 epoch 2\n"));
  EXPECT_THAT(third.output(), HasSubstr("[rank 2] rank 2 epoch 2\n"));
  EXPECT_THAT(third.output(), Not(HasSubstr("left by")));  // its memory went with the one before
}

TEST(Nodes, nobody_takes_the_place_of_one_that_was_lost) {
  const int port = free_port("127.0.0.1");
  LaunchSpec specs[2] = {node(0, port, 1, "echo ready; sleep 1000"),
                         node(1, port, 1, "echo ready; sleep 1000")};
  for (auto& spec : specs) {
    spec.max_restarts = 1;
    spec.join_timeout = milliseconds(1500);
  }
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("ready") && second.wait_for("ready")) << first.output();
  second.signal(SIGKILL);
  EXPECT_EQ(first.finish(), 1);
  EXPECT_THAT(first.output(), HasSubstr("waited 1.5 s for 2 nodes; 1 of 2 joined: "));
  EXPECT_THAT(first.output(), HasSubstr("; missing: node 1; before that, node 1 on "));
}

TEST(Nodes, stopping_one_stops_all_after_saving) {
  const int port = free_port("127.0.0.1");
  const std::string script =
      "saves() { echo saved; " + test::kEndSaved +
      "; }; trap saves TERM; echo ready; while :; do sleep 1000 & wait $!; done";
  AgentProcess first(node(0, port, 1, script));
  AgentProcess second(node(1, port, 1, script));
  ASSERT_TRUE(first.wait_for("ready") && second.wait_for("ready"));
  second.signal(SIGTERM);
  EXPECT_EQ(first.finish(), 3) << first.output();
  EXPECT_EQ(second.finish(), 3) << second.output();
  EXPECT_TRUE(first.says("saved"));
}

TEST(Nodes, says_who_is_missing_when_time_is_up) {
  LaunchSpec spec = node(0, free_port("127.0.0.1"), 1, "echo never");
  spec.join_timeout = milliseconds(200);
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr("waited 0.2 s for 2 nodes; 1 of 2 joined: "));
  EXPECT_THAT(agent.output(), HasSubstr(" as node 0; missing: node 1"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("never")));
}

TEST(Nodes, says_that_nobody_answers) {
  const int port = free_port("127.0.0.1");
  LaunchSpec spec = node(1, port, 1, "echo never");
  spec.join_timeout = milliseconds(200);
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr(str("nobody answers at 127.0.0.1:", port)));
}

TEST(Nodes, a_stop_counts_though_nobody_lets_the_node_in_meanwhile) {
  LaunchSpec spec = node(1, free_port("127.0.0.1"), 1, "echo never");
  spec.join_timeout = milliseconds(300);
  AgentProcess agent(spec, [] {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::raise(SIGTERM);  // stays pending until launch() lets it through
  });
  EXPECT_EQ(agent.finish(), 128 + SIGTERM) << agent.output();
}

TEST(Nodes, jobs_on_one_port_never_merge) {
  const int port = free_port("127.0.0.1");
  AgentProcess waiting(node(0, port, 1, "echo never"));
  LaunchSpec other = node(1, port, 1, "echo never");
  other.run_id = "other";
  // The first may need a moment to bind the port; the second waits for that.
  AgentProcess refused(other);
  EXPECT_EQ(refused.finish(), 2) << refused.output();
  EXPECT_THAT(refused.output(), HasSubstr("no run 'other' is served here"));
  AgentProcess twice(node(0, port, 1, "echo never"));
  EXPECT_EQ(twice.finish(), 2) << twice.output();
  EXPECT_THAT(twice.output(), HasSubstr("node rank 0 is taken by "));
  LaunchSpec single = shell(1, "echo never");
  single.endpoint = str("127.0.0.1:", port);
  single.run_id = "third";
  AgentProcess third(single);
  EXPECT_EQ(third.finish(), 2) << third.output();
  waiting.signal(SIGTERM);
  EXPECT_EQ(waiting.finish(), 128 + SIGTERM);
}

TEST(Nodes, several_nodes_need_an_endpoint_and_a_name) {
  LaunchSpec spec = shell(1, "true");
  spec.nodes = 2;
  EXPECT_EQ(AgentProcess(spec).finish(), 2);
  spec.endpoint = "127.0.0.1:29400";
  AgentProcess nameless(spec);
  EXPECT_EQ(nameless.finish(), 2);
  EXPECT_THAT(nameless.output(), HasSubstr("run id"));
}

}  // namespace
}  // namespace lockstep::launcher
