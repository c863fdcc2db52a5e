// Ranks that are frozen, that fail at once each time, or that leave something running.
#include <gmock/gmock.h>

#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::shell;
using testing::HasSubstr;
using testing::Not;

TEST(FrozenRank, is_ended_after_the_limit_and_the_job_starts_again) {
  LaunchSpec spec = shell(2,
                          "echo rank $RANK epoch $LOCKSTEP_EPOCH; [ $LOCKSTEP_EPOCH = 2 ] && exit "
                          "0; [ $RANK = 1 ] && { kill -STOP $$; echo woke up; }; sleep 1000");
  spec.freeze_timeout = milliseconds(300);
  spec.max_restarts = 1;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("rank 1 on host "));
  EXPECT_THAT(agent.output(),
              HasSubstr("the launcher ended it, because it is stopped (state T) for longer than "
                        "0.3 s (--freeze-timeout)"));
  EXPECT_THAT(agent.output(), HasSubstr("rank 1 epoch 2"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("woke up")));
}

TEST(FrozenRank, of_a_program_that_counts_no_steps_is_left_alone) {
  LaunchSpec spec = shell(1, "kill -STOP $$; echo woke up");
  AgentProcess agent(spec);
  ASSERT_TRUE(agent.wait_for("is stopped (state T)")) << agent.output();
  EXPECT_THAT(agent.output(), Not(HasSubstr("--freeze-timeout")));
}

TEST(Restarts, without_progress_end_after_three_in_a_row) {
  LaunchSpec spec = shell(1, "echo epoch $LOCKSTEP_EPOCH; exit 5");
  spec.max_restarts = 1000;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 5) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("epoch 4\n"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("epoch 5\n")));
  EXPECT_THAT(agent.output(), HasSubstr("the last 3 restarts made no progress"));
}

TEST(Strays, are_ended_with_the_rank_although_they_began_a_session) {
  AgentProcess agent(shell(1, "setsid sleep 1000 & echo stray $!; read line < /dev/null; exit 0"));
  const pid_t pid = agent.number_after("stray ");
  const test::Watched stray(pid);
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(!stray.found() || stray.ended());
}

TEST(Strays, are_ended_when_the_agent_is_killed) {
  AgentProcess agent(shell(1, "setsid sleep 1000 & echo stray $!; sleep 1000"));
  const test::Watched stray(agent.number_after("stray "));
  ASSERT_TRUE(stray.found());
  agent.signal(SIGKILL);
  EXPECT_TRUE(stray.ended());
}

}  // namespace
}  // namespace lockstep::launcher
