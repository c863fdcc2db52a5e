// One epoch at a time: ranks of an agent that is cut off or frozen end before the next epoch
// begins.

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

// Ranks append their epoch to a file that all can see, again and again. In epoch 2 they end soon.
std::string writes_epochs(const std::string& file) {
  return "n=0; echo begun; while [ $LOCKSTEP_EPOCH = 1 ] || [ $n -lt 20 ]; do echo $LOCKSTEP_EPOCH "
         ">> " +
         file + "; n=$((n + 1)); sleep 0.01; done";
}

// Whether a rank of epoch 1 has written after one of epoch 2.
bool old_after_new(const std::string& file) {
  const std::string lines = test::contents(file);
  return lines.find("1\n", lines.find("2\n")) != std::string::npos;
}

class Fence : public testing::Test {
 protected:
  Fence() {
    for (int rank = 0; rank < 2; ++rank) {
      specs[rank] = node(rank, port, 1, writes_epochs(file));
      specs[rank].max_restarts = 1;
      specs[rank].lease = milliseconds(1000);
    }
  }

  test::Scratch scratch;
  const std::string file = scratch.path() + "/lines";
  const int port = free_port("127.0.0.1");
  LaunchSpec specs[2];
};

TEST_F(Fence, no_rank_of_a_frozen_agent_writes_after_the_next_epoch_began) {
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("begun") && second.wait_for("begun")) << first.output();
  second.signal(SIGSTOP);
  AgentProcess third(specs[1]);
  EXPECT_EQ(first.finish(), 0) << first.output();
  EXPECT_EQ(third.finish(), 0) << third.output();
  second.signal(SIGCONT);
  EXPECT_EQ(second.finish(), 1);
  EXPECT_THAT(second.output(), HasSubstr("had no answer of the rendezvous for 0.6 s"));
  EXPECT_THAT(test::contents(file), HasSubstr("2\n"));
  EXPECT_FALSE(old_after_new(file)) << test::contents(file);
}

TEST_F(Fence, ranks_of_an_agent_that_gets_no_answers_end_before_the_lease_does) {
  specs[1].max_restarts = specs[0].max_restarts = 0;
  AgentProcess first(specs[0]);
  AgentProcess second(specs[1]);
  ASSERT_TRUE(first.wait_for("begun") && second.wait_for("begun")) << first.output();
  first.signal(SIGSTOP);  // the rendezvous with it
  ASSERT_TRUE(second.wait_for("had no answer of the rendezvous for 0.6 s")) << second.output();
  first.signal(SIGCONT);
  EXPECT_EQ(second.finish(), 1) << second.output();
  EXPECT_EQ(first.finish(), 1) << first.output();
  EXPECT_THAT(first.output(), HasSubstr("had no answer of the rendezvous for 0.6 s"));
}

}  // namespace
}  // namespace lockstep::launcher
