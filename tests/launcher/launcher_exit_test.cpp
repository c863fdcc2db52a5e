// How an agent and its ranks, all of them real processes, end: by signals, with time to save, and without orphans.
#include <fstream>
#include <memory>
#include <thread>

#include <gmock/gmock.h>

#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::contents;
using test::Scratch;
using test::shell;
using test::Watched;
using testing::HasSubstr;
using testing::Not;

TEST(Launch, goes_on_after_its_agent_was_stopped_for_a_while) {
  Scratch scratch;  // Ctrl-Z and fg; longer than every limit between the agent and its rendezvous
  AgentProcess agent(shell(2, "echo up; [ $RANK = 1 ] || exit 0; read line < " + scratch.gate() + "; echo woken"));
  ASSERT_TRUE(agent.wait_for("[rank 1] up"));
  agent.signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(8));  // the time that is the point
  agent.signal(SIGCONT);
  const int gate = ::open(scratch.gate().c_str(), O_WRONLY | O_CLOEXEC);
  std::this_thread::sleep_for(std::chrono::seconds(4));  // in which a node would be given up
  ASSERT_EQ(::write(gate, "\n", 1), 1);
  ::close(gate);
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("[rank 1] woken")) << agent.output();
}

TEST(Launch, kills_a_rank_that_ignores_sigterm) {
  Scratch scratch;
  LaunchSpec spec = shell(
      2, "if [ $RANK = 0 ]; then trap '' TERM; echo > " + scratch.gate() + "; sleep 1000; fi; read line < " + scratch.gate() + "; exit 4");
  spec.grace = milliseconds(50);
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 4);
  EXPECT_THAT(agent.output(), HasSubstr("did not end in time: killing it"));
  EXPECT_THAT(agent.output(), HasSubstr("rank 0: ended by the launcher (SIGKILL"));
}

// A rank that saves when it is asked to stop.
const char* const kSaves = "trap 'echo saved; exit 3' TERM; echo ready $RANK; while :; do sleep 1000 & wait $!; done";

TEST(Launch, passes_sigterm_on_so_that_ranks_save) {
  AgentProcess agent(shell(2, kSaves));
  ASSERT_TRUE(agent.wait_for("ready 0") && agent.wait_for("ready 1")) << agent.output();
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.finish(), 3);
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] saved\n"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] saved\n"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("failed")));
}

TEST(Launch, an_interrupted_program_that_does_not_save_ends_with_the_signal) {
  AgentProcess agent(shell(2, "echo ready $RANK; exec sleep 1000"));
  ASSERT_TRUE(agent.wait_for("ready 0") && agent.wait_for("ready 1")) << agent.output();
  agent.signal(SIGINT);
  EXPECT_EQ(agent.finish(), 128 + SIGINT);
  EXPECT_THAT(agent.output(), Not(HasSubstr("failed")));
}

TEST(Launch, a_second_signal_kills) {
  AgentProcess agent(shell(1, "trap 'echo saving' TERM; echo ready; while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGTERM);
  ASSERT_TRUE(agent.wait_for("saving"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.finish(), 128 + SIGTERM);
}

TEST(Launch, a_terminal_that_goes_away_after_sigterm_kills_nobody) {
  Scratch scratch;
  const std::string go_on = scratch.path() + "/go-on";
  AgentProcess agent(shell(1, "trap 'echo saving; until [ -e " + go_on + " ]; do sleep 0.01; done; echo saved; exit 3' TERM; " +
                                  "trap 'echo woken' USR1; echo ready; while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGTERM);
  ASSERT_TRUE(agent.wait_for("saving"));
  agent.signal(SIGHUP);
  agent.signal(SIGUSR1);  // passed on after the SIGHUP was handled
  ASSERT_TRUE(agent.wait_for("woken"));
  std::ofstream(go_on) << "go on";
  EXPECT_EQ(agent.finish(), 3);
  EXPECT_THAT(agent.output(), HasSubstr("saved"));
}

TEST(Launch, nohup_is_honoured) {
  AgentProcess agent(shell(1, "trap 'echo woken; exit 0' USR1; echo ready; while :; do sleep 1000 & wait $!; done"),
                     [] { ::signal(SIGHUP, SIG_IGN); });
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGHUP);
  agent.signal(SIGUSR1);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), Not(HasSubstr("asking the ranks")));
}

TEST(Launch, kills_ranks_that_take_too_long_to_save) {
  LaunchSpec spec = shell(1, "trap '' TERM; echo ready; sleep 1000");
  spec.stop_grace = milliseconds(50);
  AgentProcess agent(spec);
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr("did not stop within 0.05 s"));
}

TEST(Launch, a_rank_that_saves_by_itself_stops_the_others) {
  AgentProcess agent(shell(2, std::string("[ $RANK = 1 ] && exit 3; ") + kSaves));
  const int code = agent.finish();
  EXPECT_EQ(code, 3) << agent.output();
}

TEST(Launch, forwards_sigusr1_as_it_is) {
  AgentProcess agent(shell(1, "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGUSR1);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_TRUE(agent.says("warned"));
}

TEST(Launch, says_that_sigusr1_is_why_a_rank_saved_and_stopped) {
  AgentProcess agent(shell(2,
                           "trap 'exit 3' TERM; [ $RANK = 1 ] && trap '' USR1 || trap 'exit 3' USR1; echo ready$RANK; "
                           "while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready0") && agent.wait_for("ready1")) << agent.output();
  agent.signal(SIGUSR1);
  EXPECT_EQ(agent.finish(), 3) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("SIGUSR1: the ranks save and stop"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("asking the others to stop")));
}

TEST(Launch, leaves_no_orphan_when_the_agent_is_killed) {
  // A rank, its child, and a grandchild in a process group of its own (job control, as in interactive shells).
  AgentProcess agent(
      shell(2, "echo rank$RANK $$; sleep 1000 & echo child$RANK $!; set -m; sleep 1000 & echo group$RANK $!; echo ready$RANK; wait"));
  ASSERT_TRUE(agent.wait_for("ready0") && agent.wait_for("ready1")) << agent.output();
  std::vector<std::unique_ptr<Watched>> processes;
  for (const char* name : {"rank0 ", "child0 ", "group0 ", "rank1 ", "child1 ", "group1 "}) {
    processes.push_back(std::make_unique<Watched>(agent.number_after(name)));
    ASSERT_TRUE(processes.back()->found()) << name;
  }
  agent.signal(SIGKILL);
  for (const auto& process : processes) EXPECT_TRUE(process->ended());
  EXPECT_EQ(agent.finish(), 128 + SIGKILL);
}

TEST(Launch, leaves_no_orphan_however_early_the_agent_is_killed) {
  // The rank kills its agent as the first thing that it does after it has started a child.
  for (int i = 0; i < 10; ++i) {
    Scratch scratch;
    const std::string file = scratch.path() + "/child";
    AgentProcess agent(shell(1, "sleep 1000 & echo $! > " + file + "; kill -9 $PPID; wait"));
    EXPECT_EQ(agent.finish(), 128 + SIGKILL);
    const pid_t child = std::atoi(contents(file).c_str());
    ASSERT_GT(child, 0);
    const Watched process(child);
    EXPECT_TRUE(!process.found() || process.ended());
  }
}

TEST(Launch, ends_also_when_somebody_stopped_its_guardian) {
  AgentProcess agent(shell(1,
                           "while :; do for p in $(cat /proc/$PPID/task/*/children); do "
                           "[ \"$(cat /proc/$p/comm)\" = lockstep-guard ] && kill -STOP $p && echo stopped it && exit 0; done; done"));
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("stopped it")) << agent.output();
}

TEST(Launch, ends_what_a_rank_leaves_behind) {
  AgentProcess agent(shell(1, "set -m; sleep 1000 & echo left $!; exec 1>&- 2>&-; read line <&- ; exit 0"));
  const pid_t left = agent.number_after("left ");
  const Watched process(left);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_TRUE(!process.found() || process.ended());
}

TEST(Launch, holds_signals_back_for_programs_that_are_not_ready_for_them) {
  LaunchSpec spec = shell(1, "kill -TERM $$; echo still here");
  spec.hold_stop_signals = true;
  AgentProcess held(spec);
  EXPECT_EQ(held.finish(), 0);
  EXPECT_TRUE(held.says("still here")) << held.output();
  spec.hold_stop_signals = false;
  EXPECT_EQ(AgentProcess(spec).finish(), 128 + SIGTERM);
}

}  // namespace
}  // namespace lockstep::launcher
