// What an agent does whose output nobody reads, or only slowly.
#include <fstream>

#include <gmock/gmock.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using test::AgentProcess;
using test::contents;
using test::Scratch;
using test::shell;
using testing::HasSubstr;

// A pipe that nobody reads, and that is full, as this process's standard output.
void block_output() {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_NONBLOCK), 0);
  const std::string page(4096, 'x');
  while (::write(ends[1], page.data(), page.size()) > 0) {
  }
  ::fcntl(ends[1], F_SETFL, 0);
  ::dup2(ends[1], STDOUT_FILENO);
}

TEST(Launch, heeds_signals_while_nobody_reads_its_output) {
  // More output than the pipes and the agent's memory hold; the save must not wait for a reader,
  // either.
  AgentProcess agent(
      shell(1, "saves() { seq 1 100000; echo saved >&2; " + test::kEndSaved +
                   "; }; trap saves TERM; echo ready >&2; while :; do echo on; done"),
      block_output);
  ASSERT_TRUE(agent.wait_for("ready"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.finish(), 3) << agent.output();
  EXPECT_TRUE(agent.says("saved"));
}

TEST(Launch, sees_ranks_end_while_nobody_reads_its_output) {
  AgentProcess agent(
      shell(2, "[ $RANK = 1 ] && { echo pid $$ >&2; exec sleep 1000; }; while :; do echo on; done"),
      block_output);
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_GT(rank, 0);
  ::kill(rank, SIGKILL);
  EXPECT_EQ(agent.finish(), 128 + SIGKILL);
  EXPECT_THAT(agent.output(), HasSubstr(str("┌ rank 1 on host ", host_name(), " (pid ", rank,
                                            "): killed by SIGKILL")));
}

TEST(Launch, loses_no_output_to_a_slow_reader) {
  Scratch scratch;
  const std::string file = scratch.path() + "/read";
  // The reader begins when all pipes and buffers are full, and reads to the end.
  const std::string gate = scratch.gate();
  AgentProcess agent(shell(1, "seq 1 2000000; echo done >&2"), [&] {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    if (::fork() == 0) {
      ::dup2(ends[0], STDIN_FILENO);
      ::close(ends[0]);
      ::close(ends[1]);
      ::execl("/bin/sh", "sh", "-c",
              ("read line < " + gate + "; cat > " + file + "; echo all read >&2").c_str(), nullptr);
      ::_exit(127);
    }
    ::dup2(ends[1], STDOUT_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
  });
  std::ofstream(gate) << "read\n";
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_TRUE(agent.says("all read"));
  std::ifstream lines(file);
  int64_t expected = 0;
  for (std::string line; std::getline(lines, line);) ASSERT_EQ(line, str("[rank 0] ", ++expected));
  EXPECT_EQ(expected, 2000000);
}

TEST(Launch, output_that_a_log_keeps_waits_for_no_reader) {
  Scratch scratch;
  LaunchSpec spec = shell(1, "seq 1 2000000; echo done >&2");
  spec.log_dir = scratch.path();
  AgentProcess agent(spec, block_output);
  EXPECT_TRUE(agent.wait_for("[rank 0] done\n"));
  agent.signal(SIGTERM);  // nobody will ever read
  EXPECT_EQ(agent.finish(), 0) << agent.output();
  EXPECT_THAT(contents(scratch.path() + "/rank-0.log"), HasSubstr("\n1999999\n2000000\ndone\n"));
}

}  // namespace
}  // namespace lockstep::launcher
