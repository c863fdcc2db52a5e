// Jobs whose number of nodes or ranks changes.
#include <gmock/gmock.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::shell;
using testing::HasSubstr;

LaunchSpec node(int rank, int port, int nproc, const std::string& script) {
  LaunchSpec spec = shell(nproc, script);
  spec.nodes = 2;
  spec.node_rank = rank;
  spec.endpoint = str("127.0.0.1:", port);
  spec.run_id = "r";
  return spec;
}

// Agents of a job of one to three nodes whose ranks wait to be told how to end.
class Elastic : public testing::Test {
 protected:
  LaunchSpec spec(int nproc, const std::string& script) {
    LaunchSpec spec = node(-1, port, nproc, script);
    spec.nodes = 3;
    spec.min_nodes = 1;
    spec.spare_timeout = milliseconds(500);
    return spec;
  }
  const int port = free_port("127.0.0.1");
  const std::string says = "echo rank $RANK of $WORLD_SIZE in epoch $LOCKSTEP_EPOCH; ";
};

TEST_F(Elastic, a_node_that_is_lost_leaves_fewer_ranks) {
  const std::string script = says + "[ $LOCKSTEP_EPOCH = 2 ] && exit 0; sleep 1000";
  LaunchSpec specs[2] = {spec(1, script), spec(2, script)};
  for (int rank = 0; rank < 2; ++rank) {
    specs[rank].node_rank = rank;
    specs[rank].nodes = 2;  // the first epoch begins as soon as both are there
    specs[rank].spare_timeout = std::chrono::seconds(3);
  }
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("rank 0 of 3 in epoch 1")) << first.output();
  ASSERT_TRUE(second.wait_for("rank 1 of 3 in epoch 1") && second.wait_for("rank 2 of 3"));
  second.signal(SIGKILL);
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_THAT(first.output(), HasSubstr("rank 0 of 1 in epoch 2"));
  EXPECT_THAT(first.output(), HasSubstr("epoch 2 has 1 rank(s) on 1 node(s); epoch 1 had 3 on 2"));
}

TEST_F(Elastic, a_node_may_join_late) {
  const std::string script =
      says + "trap '" + test::kEndSaved +
      "' TERM; [ $WORLD_SIZE = 3 ] && exit 0; while :; do sleep 1000 & wait $!; done";
  AgentProcess first(spec(1, script));
  ASSERT_TRUE(first.wait_for("rank 0 of 1 in epoch 1")) << first.output();
  AgentProcess second(spec(2, script));
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_EQ(second.finish(), 0) << second.output();
  EXPECT_THAT(first.output(), HasSubstr("another node has joined"));
  EXPECT_THAT(first.output(), HasSubstr("rank 0 of 3 in epoch 2"));
  EXPECT_THAT(second.output(), HasSubstr("rank 2 of 3 in epoch 2"));
}

TEST_F(Elastic, fewer_than_the_least_number_of_nodes_end_the_job) {
  LaunchSpec specs[2] = {spec(1, says + "sleep 1000"), spec(1, says + "sleep 1000")};
  for (int rank = 0; rank < 2; ++rank) {
    specs[rank].node_rank = rank;
    specs[rank].min_nodes = 2;
  }
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("in epoch 1") && second.wait_for("in epoch 1")) << first.output();
  second.signal(SIGKILL);
  EXPECT_EQ(first.finish(), 1) << first.output();
  EXPECT_THAT(first.output(), HasSubstr("fewer than 2 nodes are left"));
}

}  // namespace
}  // namespace lockstep::launcher
