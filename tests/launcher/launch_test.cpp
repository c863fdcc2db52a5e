// One agent and its ranks, all of them real processes: what ranks get, what is shown of them, and
// starting again.
#include <algorithm>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <sys/ioctl.h>

#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using test::AgentProcess;
using test::contents;
using test::Scratch;
using test::shell;
using testing::HasSubstr;
using testing::Not;

TEST(Launch, gives_ranks_their_place_and_says_nothing_of_its_own) {
  LaunchSpec spec =
      shell(2,
            "echo rank $RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE group "
            "$GROUP_RANK/$GROUP_WORLD_SIZE "
            "run $TORCHELASTIC_RUN_ID/$LOCKSTEP_RUN_ID epoch $LOCKSTEP_EPOCH restarts "
            "$TORCHELASTIC_RESTART_COUNT "
            "extra $EXTRA master $MASTER_ADDR threads ${OMP_NUM_THREADS:-none} "
            "${MASTER_PORT:+port} ${LOCKSTEP_STORE:+store} ${LOCKSTEP_ERROR_FILE:+file}");
  spec.run_id = "r";
  spec.environment = {{"EXTRA", "value"}, {"OMP_NUM_THREADS", "5"}};
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  const std::string rest =
      " group 0/1 run r/r epoch 1 restarts 0 extra value master 127.0.0.1 threads 5 port store "
      "file\n";
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] rank 0/2 local 0/2" + rest));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] rank 1/2 local 1/2" + rest));
  EXPECT_EQ(std::count(agent.output().begin(), agent.output().end(), '\n'), 2) << agent.output();
}

TEST(Launch, never_mixes_lines_of_ranks) {
  LaunchSpec spec = shell(4,
                          "i=0; while [ $i -lt 200 ]; do echo \"rank $RANK says line $i to all\"; "
                          "i=$((i+1)); done; printf 'rest of %s' $RANK");
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  std::multiset<std::string> expected;
  for (int rank = 0; rank < 4; ++rank) {
    for (int i = 0; i < 200; ++i)
      expected.insert(str("[rank ", rank, "] rank ", rank, " says line ", i, " to all"));
    expected.insert(str("[rank ", rank, "] rest of ", rank));
  }
  std::multiset<std::string> lines;
  std::istringstream output(agent.output());
  for (std::string line; std::getline(output, line);) lines.insert(line);
  EXPECT_EQ(lines, expected);
}

TEST(Launch, passes_on_long_lines_and_binary_bytes) {
  AgentProcess agent(
      shell(1, "head -c 200000 /dev/zero | tr '\\0' x; echo; printf '\\001\\377\\000end\\n'"));
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_EQ(std::count(agent.output().begin(), agent.output().end(), 'x'), 200000);
  EXPECT_TRUE(agent.says(std::string("[rank 0] \001\377\0end\n", 15)))
      << "binary bytes stay as they are";
}

TEST(Launch, writes_logs_and_shows_only_what_was_asked_for) {
  Scratch scratch;
  LaunchSpec spec = shell(3, "echo out $RANK; echo err $RANK >&2");
  spec.log_dir = scratch.path() + "/run/logs";
  spec.shown_local_ranks = {0, 2};
  spec.hidden_streams = {0, 0, 1};
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] out 0\n"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 2] err 2\n"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("out 2")));
  EXPECT_THAT(agent.output(), Not(HasSubstr("rank 1")));
  for (int rank = 0; rank < 3; ++rank) {
    const std::string log = contents(str(spec.log_dir, "/rank-", rank, ".log"));
    EXPECT_THAT(log, HasSubstr(str("out ", rank, "\n")));
    EXPECT_THAT(log, HasSubstr(str("err ", rank, "\n")));
  }
}

TEST(Launch, shows_rank_0_as_it_is_for_training) {
  LaunchSpec spec = shell(2, "printf 'a\\rb of %s' $RANK; echo err $RANK >&2");
  spec.screen = Screen::rank0;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("a\rb of 0"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("b of 1")));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] err 1\n"));
}

TEST(Launch, tells_rank_0_about_the_terminal_that_shows_it) {
  const int probe = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (probe < 0) GTEST_SKIP() << "this machine has no pseudo-terminals (/dev/pts)";
  ::close(probe);
  LaunchSpec spec = shell(2,
                          "echo rank $RANK terminal ${LOCKSTEP_TTY:-no} >&2; [ $RANK = 1 ] || echo "
                          "columns $COLUMNS >&2");
  spec.screen = Screen::rank0;
  AgentProcess agent(spec, [] {
    const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
    ::unlockpt(terminal);
    const winsize size{.ws_row = 24, .ws_col = 132, .ws_xpixel = 0, .ws_ypixel = 0};
    const int screen = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
    ::ioctl(screen, TIOCSWINSZ, &size);
    ::dup2(screen, STDOUT_FILENO);
  });
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("rank 0 terminal 1\ncolumns 132\n"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] rank 1 terminal no\n"));
}

TEST(Launch, starts_all_ranks_again_in_a_new_epoch) {
  LaunchSpec spec = shell(2,
                          "echo rank $RANK epoch $LOCKSTEP_EPOCH restart "
                          "$TORCHELASTIC_RESTART_COUNT; [ $LOCKSTEP_EPOCH = 3 ] && exit 0; "
                          "[ $RANK = 1 ] && exit 5; sleep 1000");
  spec.max_restarts = 2;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("exit code 5; starting all ranks again (restart 1 of 2)"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] rank 0 epoch 3 restart 2\n"));
}

TEST(Launch, what_a_rank_leaves_in_its_memory_is_there_when_it_is_started_again) {
  const Scratch scratch;
  // Rank 1 dies once both have left something.
  LaunchSpec spec = shell(2,
                          "cat $LOCKSTEP_KEPT_MEMORY; echo left by rank $RANK in epoch "
                          "$LOCKSTEP_EPOCH > $LOCKSTEP_KEPT_MEMORY; "
                          "[ $LOCKSTEP_EPOCH = 3 ] && exit 0; "
                          "[ $RANK = 0 ] && echo > $GATE && sleep 1000; "
                          "read line < $GATE; kill -KILL $$");
  spec.environment = {{"GATE", scratch.gate()}};
  spec.max_restarts = 2;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  for (const int rank : {0, 1}) {
    EXPECT_THAT(agent.output(),
                HasSubstr(str("[rank ", rank, "] left by rank ", rank, " in epoch 1\n")));
    EXPECT_THAT(agent.output(),
                HasSubstr(str("[rank ", rank, "] left by rank ", rank, " in epoch 2\n")));
  }
}

TEST(Launch, without_restarts_there_is_no_memory_to_leave_anything_in) {
  LaunchSpec spec = shell(1, "echo memory ${LOCKSTEP_KEPT_MEMORY:-none}");
  spec.environment = {{"LOCKSTEP_KEPT_MEMORY", "/of/an/agent/around/this/one"}};
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("memory none\n"));
}

TEST(Launch, gives_up_when_no_restart_is_left) {
  LaunchSpec spec = shell(2, "exit 5");
  spec.max_restarts = 1;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 5);
  EXPECT_THAT(agent.output(), HasSubstr("the job failed"));
}

TEST(Launch, refuses_what_cannot_be_started) {
  AgentProcess missing([] {
    LaunchSpec spec;
    spec.argv = {"no-such-program-at-all"};
    return spec;
  }());
  EXPECT_EQ(missing.finish(), 2);
  EXPECT_THAT(missing.output(), HasSubstr("there is no program 'no-such-program-at-all' in PATH"));
  AgentProcess not_executable([] {
    LaunchSpec spec;
    spec.argv = {"/etc/passwd"};
    return spec;
  }());
  LaunchSpec renamed = shell(1, "echo $0");
  renamed.program = renamed.argv[0];
  renamed.argv = {"a-name", "-c", "echo called $0"};
  AgentProcess agent(renamed);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("called a-name"));
  EXPECT_EQ(not_executable.finish(), 2);
  EXPECT_THAT(not_executable.output(), HasSubstr("'/etc/passwd' is not an executable file"));
  EXPECT_EQ(AgentProcess(shell(0, "true")).finish(), 2);
}

}  // namespace
}  // namespace lockstep::launcher
