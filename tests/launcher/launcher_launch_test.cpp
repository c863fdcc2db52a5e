// One agent and its ranks, all of them real processes.
#include <algorithm>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::Scratch;
using test::shell;
using test::Watched;
using testing::HasSubstr;
using testing::Not;

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Launch, gives_ranks_their_place_and_says_nothing_of_its_own) {
  LaunchSpec spec = shell(2,
                          "echo rank $RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE group $GROUP_RANK/$GROUP_WORLD_SIZE "
                          "run $TORCHELASTIC_RUN_ID/$LOCKSTEP_RUN_ID epoch $LOCKSTEP_EPOCH restarts $TORCHELASTIC_RESTART_COUNT "
                          "extra $EXTRA master $MASTER_ADDR threads ${OMP_NUM_THREADS:-none} "
                          "${MASTER_PORT:+port} ${LOCKSTEP_STORE:+store} ${LOCKSTEP_ERROR_FILE:+file}");
  spec.run_id = "r";
  spec.environment = {{"EXTRA", "value"}, {"OMP_NUM_THREADS", "5"}};
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  const std::string rest = " group 0/1 run r/r epoch 1 restarts 0 extra value master 127.0.0.1 threads 5 port store file\n";
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] rank 0/2 local 0/2" + rest));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] rank 1/2 local 1/2" + rest));
  EXPECT_EQ(std::count(agent.output().begin(), agent.output().end(), '\n'), 2) << agent.output();
}

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

TEST(Launch, names_a_stopped_rank_and_lets_it_go_on) {
  AgentProcess agent(shell(2, "[ $RANK = 1 ] || exit 0; echo pid $$; kill -STOP $$; echo woken"));
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_GT(rank, 0);
  EXPECT_TRUE(agent.wait_for(str("rank 1 (pid ", rank, " on host ", host_name(), ") is stopped (state T)"))) << agent.output();
  ::kill(rank, SIGCONT);
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("[rank 1] woken")) << agent.output();
}

// Rank 0 gives up waiting for rank 1 when `gate` is opened; rank 1 stops itself.
LaunchSpec waits_for_a_stopped_rank(const std::string& gate) {
  return shell(2, "if [ $RANK = 1 ]; then echo pid $$; kill -STOP $$; echo woken; while :; do sleep 1000; done; fi; read line < " + gate +
                      "; echo '{\"message\":\"rank 1 did not come\",\"caused_by_peer\":true}' > $LOCKSTEP_ERROR_FILE; exit 7");
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
  EXPECT_THAT(agent.output(), HasSubstr(str("first failure:\n┌ rank 1 on host ", host_name(), " (pid ", rank,
                                            "): stood still until the others gave up waiting for it, ")));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: stopped by SIGSTOP or Ctrl-Z (state T) since "));
  EXPECT_THAT(agent.output(),
              HasSubstr(str("until rank 0 on host ", host_name(), " gave up; 'kill -CONT ", rank, "' before that lets it go on\n")));
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
  AgentProcess agent(shell(2, "if [ $RANK = 1 ]; then exec 3>" + scratch.gate() + "; kill -9 $$; fi; read line < " + scratch.gate() +
                                  "; echo peer is gone; exit 1"));
  EXPECT_EQ(agent.finish(), 128 + SIGKILL);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 1 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("killed by SIGKILL (signal 9)"));
}

TEST(Launch, blames_the_rank_that_reported_first_even_if_it_does_not_end) {
  Scratch scratch;
  // Rank 0 fails, reports it, lets its peer know and hangs in its clean-up; rank 1 fails because of that and ends at once.
  AgentProcess agent(
      shell(2, "if [ $RANK = 0 ]; then echo '{\"message\":\"loss is nan\",\"monotonic_ns\":1}' > $LOCKSTEP_ERROR_FILE; echo > " +
                   scratch.gate() + "; sleep 1000; fi; read line < " + scratch.gate() + "; exit 1"));
  EXPECT_EQ(agent.finish(), 128 + SIGTERM);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: loss is nan\n"));
  EXPECT_THAT(agent.output(), HasSubstr("│ rank 1: exit code 1, later\n"));
}

TEST(Launch, waits_for_the_cause_while_only_consequences_are_known) {
  Scratch scratch;
  // Rank 1 blames a peer and ends; rank 0 fails only when the agent has seen that end (then the process is gone from /proc).
  AgentProcess agent(shell(2,
                           "if [ $RANK = 1 ]; then echo '{\"message\":\"rank 0 left\",\"caused_by_peer\":true}' > $LOCKSTEP_ERROR_FILE; "
                           "echo $$ > " +
                               scratch.gate() +
                               "; exit 1; fi; "
                               "read pid < " +
                               scratch.gate() + "; while [ -d /proc/$pid ]; do :; done; echo bad data; exit 7"));
  EXPECT_EQ(agent.finish(), 7);
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("│ rank 1: exit code 1, later: rank 0 left\n"));
}

TEST(Launch, ends_waits_in_the_store_when_a_rank_has_failed) {
  // Rank 1 waits for a key of rank 0, as ranks do that meet; it notes SIGTERM and goes on waiting, and is not to be killed for that.
  LaunchSpec spec;
  spec.argv = {STORE_WAITER};
  spec.nproc = 2;
  spec.grace = milliseconds(test::kLimit) * 2;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 7) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("[rank 1] [store] get 'epoch-1/never': the job has failed: rank 0 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 0 on host "));
}

TEST(Launch, says_when_only_a_consequence_is_known) {
  AgentProcess agent(shell(2,
                           "[ $RANK = 0 ] && sleep 1000; "
                           "echo '{\"message\":\"rank 0 closed\",\"caused_by_peer\":true}' > $TORCHELASTIC_ERROR_FILE; exit 1"));
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: rank 0 closed\n│ it names another rank as the cause"));
}

TEST(Launch, tells_signals_by_name) {
  AgentProcess agent(shell(1, "kill -SEGV $$"));
  EXPECT_EQ(agent.finish(), 128 + SIGSEGV);
  EXPECT_THAT(agent.output(), HasSubstr("killed by SIGSEGV (signal 11"));
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

TEST(Launch, never_mixes_lines_of_ranks) {
  LaunchSpec spec =
      shell(4, "i=0; while [ $i -lt 200 ]; do echo \"rank $RANK says line $i to all\"; i=$((i+1)); done; printf 'rest of %s' $RANK");
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  std::multiset<std::string> expected;
  for (int rank = 0; rank < 4; ++rank) {
    for (int i = 0; i < 200; ++i) expected.insert(str("[rank ", rank, "] rank ", rank, " says line ", i, " to all"));
    expected.insert(str("[rank ", rank, "] rest of ", rank));
  }
  std::multiset<std::string> lines;
  std::istringstream output(agent.output());
  for (std::string line; std::getline(output, line);) lines.insert(line);
  EXPECT_EQ(lines, expected);
}

TEST(Launch, passes_on_long_lines_and_binary_bytes) {
  AgentProcess agent(shell(1, "head -c 200000 /dev/zero | tr '\\0' x; echo; printf '\\001\\377\\000end\\n'"));
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_EQ(std::count(agent.output().begin(), agent.output().end(), 'x'), 200000);
  EXPECT_TRUE(agent.says(std::string("[rank 0] \001\377\0end\n", 15))) << "binary bytes stay as they are";
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
  LaunchSpec spec = shell(2, "echo rank $RANK terminal ${LOCKSTEP_TTY:-no} >&2; [ $RANK = 1 ] || echo columns $COLUMNS >&2");
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
                          "echo rank $RANK epoch $LOCKSTEP_EPOCH restart $TORCHELASTIC_RESTART_COUNT; [ $LOCKSTEP_EPOCH = 3 ] && exit 0; "
                          "[ $RANK = 1 ] && exit 5; sleep 1000");
  spec.max_restarts = 2;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("exit code 5; starting all ranks again (restart 1 of 2)"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] rank 0 epoch 3 restart 2\n"));
}

TEST(Launch, gives_up_when_no_restart_is_left) {
  LaunchSpec spec = shell(2, "exit 5");
  spec.max_restarts = 1;
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 5);
  EXPECT_THAT(agent.output(), HasSubstr("the job failed"));
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

TEST(Launch, ranks_start_with_default_signals_and_the_old_file_limit) {
  // The agent ignores SIGPIPE and raises the limit of open files for itself only.
  AgentProcess agent(shell(1, "echo files $(ulimit -Sn); grep SigIgn /proc/self/status"), [] {
    ::signal(SIGPIPE, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 10;  // not enough for an agent
    ::setrlimit(RLIMIT_NOFILE, &limit);
  });
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_THAT(agent.output(), HasSubstr("files 10\n"));
  EXPECT_THAT(agent.output(), HasSubstr("SigIgn:\t0000000000000000"));
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

TEST(Launch, an_agent_that_gets_too_few_files_says_so_at_once) {
  // Too few for gRPC to begin with, for the connection between agent and rendezvous, and for the ranks' pipes.
  for (const rlim_t files : {10, 18, 26}) {
    AgentProcess agent(shell(2, "true"), [files] {
      const rlimit limit{.rlim_cur = files, .rlim_max = files};
      ::setrlimit(RLIMIT_NOFILE, &limit);
    });
    EXPECT_EQ(agent.finish(), 1);
    EXPECT_THAT(agent.output(), HasSubstr(str("the limit of open files is ", files, ", but an agent of 2 ranks needs "))) << agent.output();
    EXPECT_THAT(agent.output(), HasSubstr("ulimit -n"));
  }
}

TEST(Launch, what_it_says_to_need_of_files_is_enough) {
  constexpr int kRanks = 20;
  const auto with_files = [](rlim_t files) {
    return std::make_unique<AgentProcess>(shell(kRanks, "true"), [files] {
      ::close_range(3, ~0U, 0);  // of the test's own
      const rlimit limit{.rlim_cur = files, .rlim_max = files};
      ::setrlimit(RLIMIT_NOFILE, &limit);
    });
  };
  const auto few = with_files(30);
  EXPECT_EQ(few->finish(), 1);
  const size_t at = few->output().find(" needs ");
  ASSERT_NE(at, std::string::npos) << few->output();
  const auto enough = with_files(static_cast<rlim_t>(std::atoi(few->output().c_str() + at + 7)));
  EXPECT_EQ(enough->finish(), 0) << enough->output();
}

TEST(Launch, an_agent_that_gets_no_threads_says_so) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that is limited here";
#endif
  AgentProcess agent(shell(1, "true"), [] {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t bytes = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (20 << 20);  // two stacks, or ten
    const rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
    ::setrlimit(RLIMIT_AS, &limit);
  });
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr("of the 16 threads that an agent needs"));
  EXPECT_THAT(agent.output(), HasSubstr("ulimit -u"));
}

}  // namespace
}  // namespace lockstep::launcher
