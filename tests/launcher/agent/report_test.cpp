// Whom the report of an agent names, when ranks that are real processes fail, stand still or give
// up waiting.
#include <gmock/gmock.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::Scratch;
using test::shell;
using testing::HasSubstr;
using testing::Not;

TEST(Launch, names_the_rank_that_failed_with_its_last_words) {
  AgentProcess agent(shell(3, "echo step 1; echo oops >&2; [ $RANK = 1 ] && exit 7; sleep 1000"));
  EXPECT_EQ(agent.finish(), 7);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 1 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("): exit code 7, "));
  EXPECT_THAT(agent.output(), HasSubstr("│   oops\n"));
  EXPECT_THAT(agent.output(), HasSubstr("│ ranks 0 and 2: ended by the launcher\n"));
}

TEST(Launch, can_map_failures_to_the_exit_codes_of_lockstep) {
  const auto code_of = [](const char* program) {
    LaunchSpec spec = shell(1, program);
    spec.failure_code = FailureCode::lockstep;
    return AgentProcess(spec).finish();
  };
  EXPECT_EQ(code_of("exit 7"), 1);
  EXPECT_EQ(code_of("kill -9 $$"), 1);
  EXPECT_EQ(code_of("exit 2"), 2);
}

TEST(Launch, names_a_stopped_rank_and_lets_it_go_on) {
  AgentProcess agent(shell(2, "[ $RANK = 1 ] || exit 0; echo pid $$; kill -STOP $$; echo woken"));
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_GT(rank, 0);
  EXPECT_TRUE(
      agent.wait_for(str("rank 1 (pid ", rank, " on host ", host_name(), ") is stopped (state T)")))
      << agent.output();
  ::kill(rank, SIGCONT);
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("[rank 1] woken")) << agent.output();
}

// Rank 0 gives up waiting for rank 1 when `gate` is opened; rank 1 stops itself.
LaunchSpec waits_for_a_stopped_rank(const std::string& gate) {
  return shell(2,
               "if [ $RANK = 1 ]; then echo pid $$; kill -STOP $$; echo woken; while :; do sleep "
               "1000; done; fi; read line < " +
                   gate +
                   "; echo '{\"message\":\"rank 1 did not come\",\"caused_by_peer\":true}' > "
                   "$LOCKSTEP_ERROR_FILE; exit 7");
}

void open_gate(const std::string& gate) {
  const int fd = ::open(gate.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::write(fd, "\n", 1), 1);
  ::close(fd);
}

TEST(Launch, blames_a_stopped_rank_and_not_the_one_that_gave_up_waiting_for_it) {
  Scratch scratch;
  AgentProcess agent(waits_for_a_stopped_rank(scratch.gate()));
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_TRUE(agent.wait_for("is stopped (state T)")) << agent.output();
  open_gate(scratch.gate());
  EXPECT_EQ(agent.finish(), 7);
  EXPECT_THAT(agent.output(),
              HasSubstr(str("first failure:\n┌ rank 1 on host ", host_name(), " (pid ", rank,
                            "): stood still until the others gave up waiting for it, ")));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: stopped by SIGSTOP or Ctrl-Z (state T) since "));
  EXPECT_THAT(agent.output(),
              HasSubstr(str("until rank 0 on host ", host_name(), " gave up; 'kill -CONT ", rank,
                            "' before that would have resumed it\n")));
  EXPECT_THAT(agent.output(), HasSubstr("│ rank 0: exit code 7, later: rank 1 did not come\n"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("no other rank reported")));
}

TEST(Launch, does_not_blame_a_rank_that_was_stopped_and_goes_on) {
  Scratch scratch;
  AgentProcess agent(waits_for_a_stopped_rank(scratch.gate()));
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_TRUE(agent.wait_for("is stopped (state T)")) << agent.output();
  ::kill(rank, SIGCONT);
  ASSERT_TRUE(agent.wait_for("[rank 1] woken")) << agent.output();
  open_gate(scratch.gate());
  EXPECT_EQ(agent.finish(), 7);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
}

TEST(Launch, blames_the_killed_rank_and_not_the_one_that_saw_it_go) {
  Scratch scratch;
  // Rank 0 reads from rank 1, which dies; rank 0 fails at once because of that.
  AgentProcess agent(shell(2, "if [ $RANK = 1 ]; then exec 3>" + scratch.gate() +
                                  "; kill -9 $$; fi; read line < " + scratch.gate() +
                                  "; echo peer is gone; exit 1"));
  EXPECT_EQ(agent.finish(), 128 + SIGKILL);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 1 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("killed by SIGKILL (signal 9)"));
}

TEST(Launch, blames_the_rank_that_reported_first_even_if_it_does_not_end) {
  Scratch scratch;
  // Rank 0 fails, reports it, lets its peer know and hangs in its clean-up; rank 1 fails because of
  // that and ends at once.
  AgentProcess agent(shell(2,
                           "if [ $RANK = 0 ]; then echo '{\"message\":\"loss is "
                           "nan\",\"monotonic_ns\":1}' > $LOCKSTEP_ERROR_FILE; echo > " +
                               scratch.gate() + "; sleep 1000; fi; read line < " + scratch.gate() +
                               "; exit 1"));
  EXPECT_EQ(agent.finish(), 128 + SIGTERM);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: loss is nan\n"));
  EXPECT_THAT(agent.output(), HasSubstr("│ rank 1: exit code 1, later\n"));
}

TEST(Launch, waits_for_the_cause_while_only_consequences_are_known) {
  Scratch scratch;
  // Rank 1 blames a peer and ends; rank 0 fails only when the agent has seen that end (then the
  // process is gone from /proc).
  AgentProcess agent(shell(2,
                           "if [ $RANK = 1 ]; then echo '{\"message\":\"rank 0 "
                           "left\",\"caused_by_peer\":true}' > $LOCKSTEP_ERROR_FILE; "
                           "echo $$ > " +
                               scratch.gate() +
                               "; exit 1; fi; "
                               "read pid < " +
                               scratch.gate() +
                               "; while [ -d /proc/$pid ]; do :; done; echo bad data; exit 7"));
  EXPECT_EQ(agent.finish(), 7);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("│ rank 1: exit code 1, later: rank 0 left\n"));
}

TEST(Launch, ends_waits_in_the_store_when_a_rank_has_failed) {
  // Rank 1 waits for a key of rank 0, as ranks do that meet; it notes SIGTERM and goes on waiting,
  // and is not to be killed for that.
  LaunchSpec spec;
  spec.argv = {STORE_WAITER};
  spec.nproc = 2;
  spec.grace = milliseconds(test::kLimit) * 2;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 7) << agent.output();
  EXPECT_THAT(
      agent.output(),
      HasSubstr("[rank 1] [store] get 'epoch-1/never': the job has failed: rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
}

TEST(Launch, says_when_only_a_consequence_is_known) {
  AgentProcess agent(shell(2,
                           "[ $RANK = 0 ] && sleep 1000; "
                           "echo '{\"message\":\"rank 0 closed\",\"caused_by_peer\":true}' > "
                           "$TORCHELASTIC_ERROR_FILE; exit 1"));
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(),
              HasSubstr("│ reason: rank 0 closed\n│ it names another rank as the cause"));
}

TEST(Launch, tells_signals_by_name) {
  AgentProcess agent(shell(1, "kill -SEGV $$"));
  EXPECT_EQ(agent.finish(), 128 + SIGSEGV);
  EXPECT_THAT(agent.output(), HasSubstr("killed by SIGSEGV (signal 11"));
}

}  // namespace
}  // namespace lockstep::launcher
