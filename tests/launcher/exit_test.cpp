// How an agent and its ranks, all of them real processes, end: by signals, with time to save, and
// without orphans.
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include <gmock/gmock.h>
#include <pthread.h>
#include <sys/resource.h>

#include "launcher/process/child.h"
#include "launcher/rendezvous/endpoint.h"
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
  AgentProcess agent(
      shell(2, "echo up; [ $RANK = 1 ] || exit 0; read line < " + scratch.gate() + "; echo woken"));
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
  LaunchSpec spec = shell(2, "if [ $RANK = 0 ]; then trap '' TERM; echo > " + scratch.gate() +
                                 "; sleep 1000; fi; read line < " + scratch.gate() + "; exit 4");
  spec.grace = milliseconds(50);
  AgentProcess agent(spec);
  EXPECT_EQ(agent.finish(), 4);
  EXPECT_THAT(agent.output(), HasSubstr("did not end in time: killing it"));
  EXPECT_THAT(agent.output(), HasSubstr("rank 0: ended by the launcher (SIGKILL"));
}

// A rank that saves when it is asked to stop.
const std::string kSaves =
    "saves() { echo saved; " + test::kEndSaved +
    "; }; trap saves TERM; echo ready $RANK; while :; do sleep 1000 & wait $!; done";

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

TEST(Launch, a_signal_that_comes_again_kills) {
  for (const int signal : {SIGTERM, SIGINT}) {
    AgentProcess agent(
        shell(1, "trap 'echo saving' TERM; echo ready; while :; do sleep 1000 & wait $!; done"));
    ASSERT_TRUE(agent.wait_for("ready"));
    agent.signal(signal);
    ASSERT_TRUE(agent.wait_for("saving"));
    agent.insist(signal);
    EXPECT_EQ(agent.finish(), 128 + signal);
  }
}

// A rank that begins to save when it is asked to, and has saved when the file `go_on` is there. It
// answers to SIGUSR1.
std::string saves_slowly(const std::string& go_on) {
  return "saves() { echo saving; until [ -e " + go_on + " ]; do sleep 0.01; done; echo saved; " +
         test::kEndSaved +
         "; }; trap saves TERM; trap 'echo woken' USR1; echo ready; while :; do sleep 1000 & wait "
         "$!; done";
}

TEST(Launch, signals_of_all_kinds_that_come_together_ask_once) {
  Scratch scratch;
  const std::string go_on = scratch.path() + "/go-on";
  for (const int first : {SIGTERM, SIGHUP, SIGINT}) {
    AgentProcess agent(shell(1, saves_slowly(go_on)));
    ASSERT_TRUE(agent.wait_for("ready"));
    agent.signal(first);
    ASSERT_TRUE(agent.wait_for("saving"));
    // A scheduler's SIGTERM, a terminal that goes away, and the person at it.
    for (const int copy : {SIGTERM, SIGCONT, SIGHUP, SIGINT})
      if (copy != first) agent.signal(copy);
    agent.signal(SIGUSR1);  // passed on after the others were handled
    ASSERT_TRUE(agent.wait_for("woken"));
    std::ofstream(go_on) << "go on";
    EXPECT_EQ(agent.finish(), 3) << agent.output();
    EXPECT_THAT(agent.output(), HasSubstr("saved"));
    std::filesystem::remove(go_on);
  }
}

TEST(Launch, a_signal_before_the_ranks_exist_reaches_those_that_can_save) {
  const auto signalled = [](int signal) {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, signal);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::raise(signal);  // stays pending until launch() lets it through
  };
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) {
    LaunchSpec spec;
    spec.nproc = 2;
    spec.argv = {"python3", "-c",
                 "import os, signal, sys\n"
                 "def saves(*_):\n"
                 "  open(os.environ['LOCKSTEP_ERROR_FILE'], 'w').write('{\"saved\": true}')\n"
                 "  sys.exit(3)\n"
                 "signal.signal(signal.SIGTERM, saves)\n"
                 "signal.pthread_sigmask(signal.SIG_SETMASK, [])\n"
                 "while True: signal.pause()\n"};
    spec.hold_stop_signals = true;
    AgentProcess agent(spec, [&] { signalled(signal); });
    EXPECT_EQ(agent.finish(), 3) << signal_name(signal) << agent.output();
  }
  AgentProcess other(shell(1, "echo started; sleep 1000"), [&] { signalled(SIGTERM); });
  EXPECT_EQ(other.finish(), 128 + SIGTERM);
  EXPECT_THAT(other.output(), Not(HasSubstr("started")))
      << "a program that may not know how to save is not started in vain";
}

// Rank 1 leaves something in memory and fails; rank 0 waits until it may end.
std::string fails_with_memory(const Scratch& scratch) {
  const std::string gate = scratch.gate();
  return "if [ $RANK = 1 ]; then echo kept > $LOCKSTEP_KEPT_MEMORY; read line < " + gate +
         "; exit 7; fi; ends() { echo draining; read line < " + gate +
         "; exit 0; }; trap ends TERM; echo > " + gate + "; while :; do sleep 1000 & wait $!; done";
}

TEST(Launch, says_that_a_stop_during_a_restart_loses_what_is_in_memory) {
  const std::string lost =
      "because the job was asked to stop: what the ranks kept in memory on this host is lost";
  for (const int restarts : {1, 0}) {
    Scratch scratch;
    LaunchSpec spec = shell(
        2, restarts > 0 ? fails_with_memory(scratch)
                        : "export LOCKSTEP_KEPT_MEMORY=/dev/null; " + fails_with_memory(scratch));
    spec.max_restarts = restarts;
    spec.grace = std::chrono::minutes(10);
    AgentProcess agent(spec);
    ASSERT_TRUE(agent.wait_for("[rank 0] draining")) << agent.output();
    agent.signal(SIGTERM);
    ASSERT_TRUE(agent.wait_for("asking the ranks to save and stop within 120 s")) << agent.output();
    std::ofstream(scratch.gate()) << "end\n";
    EXPECT_EQ(agent.finish(), 7) << agent.output();
    EXPECT_EQ(agent.says(lost), restarts > 0) << agent.output();
  }
}

TEST(Launch, a_stop_during_a_restart_lets_ranks_that_can_save_start_to_save) {
  Scratch scratch;
  LaunchSpec spec;
  spec.nproc = 2;
  spec.argv = {
      "python3", "-c",
      "import os, signal, sys\n"
      "first, rank, gate = os.environ['LOCKSTEP_EPOCH'] == '1', os.environ['RANK'], sys.argv[1]\n"
      "kept = os.environ['LOCKSTEP_KEPT_MEMORY']\n"
      "if first:\n"
      "  open(kept, 'w').write('state of ' + rank)\n"
      "  if rank == '1':\n"
      "    open(gate).read()\n"
      "    sys.exit(7)\n"
      "  open(gate, 'w').close()\n"
      "signal.sigwait([signal.SIGTERM])\n"  // held back so far
      "if first:\n"
      "  print('draining', flush=True)\n"
      "  open(gate).read()\n"
      "  sys.exit(0)\n"
      "print('found', open(kept).read(), flush=True)\n"
      "open(os.environ['LOCKSTEP_ERROR_FILE'], 'w').write('{\"saved\": true}')\n"
      "sys.exit(3)\n",
      scratch.gate()};
  spec.hold_stop_signals = true;
  spec.max_restarts = 1;
  spec.grace = std::chrono::minutes(10);
  AgentProcess agent(spec);
  ASSERT_TRUE(agent.wait_for("[rank 0] draining")) << agent.output();
  agent.signal(SIGTERM);
  ASSERT_TRUE(agent.wait_for("asking the ranks to save and stop")) << agent.output();
  std::ofstream(scratch.gate()) << "end\n";
  EXPECT_EQ(agent.finish(), 3) << agent.output();
  for (const char* rank : {"0", "1"})
    EXPECT_TRUE(agent.says(str("[rank ", rank, "] found state of ", rank))) << agent.output();
}

// As the terminal's Ctrl-C does that reaches the whole process group. The agent gets its own copy,
// if there is one.
TEST(Launch, a_signal_that_reaches_a_rank_while_it_is_forked_is_not_counted) {
  AgentProcess agent(shell(2, "echo rank $RANK goes on"),
                     [] { ::pthread_atfork(nullptr, nullptr, [] { ::raise(SIGINT); }); });
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("rank 0 goes on") && agent.says("rank 1 goes on")) << agent.output();
  EXPECT_THAT(agent.output(), Not(HasSubstr("asking the ranks")));
}

TEST(Launch, a_signal_before_the_ranks_exist_that_is_theirs_is_passed_on) {
  AgentProcess agent(shell(1, "sleep 1000"), [] {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGUSR1);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::raise(SIGUSR1);
  });
  EXPECT_EQ(agent.finish(), 128 + SIGUSR1);
}

TEST(Launch, works_whatever_signals_its_parent_had_blocked_or_ignored) {
  const auto inherit = [] {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, nullptr);
    for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGPIPE}) ::signal(signal, SIG_IGN);
  };
  AgentProcess plain(shell(2, "true"), inherit);
  EXPECT_EQ(plain.finish(), 0) << plain.output();
  AgentProcess agent(shell(2, kSaves), inherit);
  ASSERT_TRUE(agent.wait_for("ready 0") && agent.wait_for("ready 1")) << agent.output();
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.finish(), 3) << agent.output();
  // The ranks begin with ordinary signals.
  AgentProcess ranks(shell(1, "grep -E '^Sig(Blk|Ign):' /proc/self/status"), inherit);
  EXPECT_EQ(ranks.finish(), 0);
  EXPECT_THAT(ranks.output(), HasSubstr("SigBlk:\t0000000000000000\n"));
  EXPECT_THAT(ranks.output(), HasSubstr("SigIgn:\t0000000000000000\n"));
}

TEST(Launch, a_log_beyond_the_limit_of_file_sizes_ends_no_job) {
  Scratch scratch;
  LaunchSpec spec = shell(1, "seq 1 10000; echo done");
  spec.log_dir = scratch.path();
  AgentProcess agent(spec, [] {
    const rlimit small{.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &small);
  });
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("rank-0.log' is incomplete from here on: File too large"));
  EXPECT_THAT(agent.output(), HasSubstr("[rank 0] done\n"));
}

TEST(Launch, exit_code_3_means_saved_only_where_the_rank_says_so) {
  AgentProcess agent(shell(2, "[ $RANK = 1 ] && exit 3; sleep 1000"));
  EXPECT_EQ(agent.finish(), 1) << "3 as the code of lockstep means that all ranks have saved";
  EXPECT_THAT(agent.output(), HasSubstr("┌ rank 1 on host "));
  EXPECT_THAT(agent.output(), HasSubstr("this one did not say so; a program that saves when it is "
                                        "asked to stop writes {\"saved\": true}"));
  LaunchSpec again = shell(1, "[ $LOCKSTEP_EPOCH = 2 ] || exit 3");
  again.max_restarts = 1;
  EXPECT_EQ(AgentProcess(again).finish(), 0);
}

TEST(Launch, nohup_is_honoured) {
  AgentProcess agent(
      shell(1,
            "trap 'echo woken; exit 0' USR1; echo ready; while :; do sleep 1000 & wait $!; done"),
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
  AgentProcess agent(shell(2, "[ $RANK = 1 ] && { " + test::kEndSaved + "; }; " + kSaves));
  const int code = agent.finish();
  EXPECT_EQ(code, 3) << agent.output();
}

TEST(Launch, forwards_sigusr1_as_it_is) {
  AgentProcess agent(shell(
      1, "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGUSR1);
  EXPECT_EQ(agent.finish(), 0);
  EXPECT_TRUE(agent.says("warned"));
}

TEST(Launch, says_that_sigusr1_is_why_a_rank_saved_and_stopped) {
  AgentProcess agent(shell(2, "saves() { " + test::kEndSaved +
                                  "; }; trap saves TERM; [ $RANK = 1 ] && trap '' USR1 || trap "
                                  "saves USR1; echo ready$RANK; "
                                  "while :; do sleep 1000 & wait $!; done"));
  ASSERT_TRUE(agent.wait_for("ready0") && agent.wait_for("ready1")) << agent.output();
  agent.signal(SIGUSR1);
  EXPECT_EQ(agent.finish(), 3) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr("SIGUSR1: the ranks save and stop"));
  EXPECT_THAT(agent.output(), Not(HasSubstr("asking the others to stop")));
}

TEST(Launch, leaves_no_orphan_when_the_agent_is_killed) {
  // A rank, its child, and a grandchild in a process group of its own (job control, as in
  // interactive shells).
  AgentProcess agent(shell(2,
                           "echo rank$RANK $$; sleep 1000 & echo child$RANK $!; set -m; sleep 1000 "
                           "& echo group$RANK $!; echo ready$RANK; wait"));
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
                           "[ \"$(cat /proc/$p/comm)\" = lockstep-guard ] && kill -STOP $p && echo "
                           "stopped it && exit 0; done; done"));
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("stopped it")) << agent.output();
}

TEST(Launch, ends_what_a_rank_leaves_behind) {
  AgentProcess agent(
      shell(1, "set -m; sleep 1000 & echo left $!; exec 1>&- 2>&-; read line <&- ; exit 0"));
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
