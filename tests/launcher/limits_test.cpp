// What an agent and its ranks need of the system, and what they say where they do not get it.
#include <fstream>

#include <gmock/gmock.h>
#include <sys/resource.h>

#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using test::AgentProcess;
using test::shell;
using testing::HasSubstr;

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

TEST(Launch, an_agent_that_gets_too_few_files_says_so_at_once) {
  // Too few for gRPC to begin with, for the connection between agent and rendezvous, and for the
  // ranks' pipes.
  for (const rlim_t files : {10, 18, 26}) {
    AgentProcess agent(shell(2, "true"), [files] {
      const rlimit limit{.rlim_cur = files, .rlim_max = files};
      ::setrlimit(RLIMIT_NOFILE, &limit);
    });
    EXPECT_EQ(agent.finish(), 1);
    EXPECT_THAT(agent.output(), HasSubstr(str("the limit of open files is ", files,
                                              ", but an agent of 2 ranks needs ")))
        << agent.output();
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
    // Two stacks, or ten.
    const rlim_t bytes = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (20 << 20);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
    ::setrlimit(RLIMIT_AS, &limit);
  });
  EXPECT_EQ(agent.finish(), 1);
  EXPECT_THAT(agent.output(), HasSubstr("of the 19 threads that an agent needs"));
  EXPECT_THAT(agent.output(), HasSubstr("ulimit -u"));
}

}  // namespace
}  // namespace lockstep::launcher
