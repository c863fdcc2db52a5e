// One rank has an accident, all others fail because of it, and every rank that can reports: the
// agent must name the right one.
#include <gmock/gmock.h>

#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using test::AgentProcess;
using testing::HasSubstr;
using testing::Not;

class PeerFailure : public testing::TestWithParam<int> {
 protected:
  AgentProcess start(const std::string& accident) const {
    LaunchSpec spec;
    spec.argv = {PEER_FAILURE_RANK, accident};
    spec.nproc = GetParam();
    return AgentProcess(spec);
  }
  std::string victim() const { return "┌ rank " + std::to_string(GetParam() - 1) + " on host "; }
};

TEST_P(PeerFailure, a_killed_rank_is_named) {
  AgentProcess agent = start("kill");
  EXPECT_EQ(agent.finish(), 128 + SIGKILL);
  EXPECT_THAT(agent.output(), HasSubstr(victim()));
  EXPECT_THAT(agent.output(), HasSubstr("killed by SIGKILL (signal 9)"));
}

TEST_P(PeerFailure, a_rank_that_throws_is_named_though_the_others_report_first) {
  AgentProcess agent = start("throw");
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr(victim()));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: the data is gone\n"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("it names another rank as the cause")));
}

TEST_P(PeerFailure, a_rank_that_cannot_agree_is_named) {
  AgentProcess agent = start("disagree");
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr(victim()));
  EXPECT_THAT(agent.output(), HasSubstr("the folder is missing"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("it names another rank as the cause")));
}

INSTANTIATE_TEST_SUITE_P(ranks, PeerFailure, testing::Values(2, 4),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace lockstep::launcher
