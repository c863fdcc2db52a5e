// Ranks for tests: as threads of this process, or as processes forked from it.
#pragma once

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace lockstep::test {

// How a rank's process ended.
struct RankEnd {
  int exit_code = -1;      // where it exited
  int signal = 0;          // where a signal ended it
  bool timed_out = false;  // the harness ended it at the limit
};

// Runs body(rank) on `ranks` threads. An exception fails the test and names the rank.
inline void run_threads(int ranks, const std::function<void(int rank)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&body, rank] {
      try {
        body(rank);
      } catch (const std::exception& e) {
        ADD_FAILURE() << "rank " << rank << " threw: " << e.what();
      }
    });
  for (auto& thread : threads) thread.join();
}

namespace internal {

[[noreturn]] inline void run_child(int rank, pid_t parent, const std::function<void(int)>& body) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  try {
    body(rank);
  } catch (const std::exception& e) {
    ADD_FAILURE() << "rank " << rank << " threw: " << e.what();
  }
  std::fflush(nullptr);
  // Not exit(): the parent's destructors and test listeners are not the child's business.
  ::_exit(::testing::Test::HasFailure() ? 1 : 0);
}

}  // namespace internal

// Forks `ranks` processes, runs body(rank) in each and waits for all; a process that is still there
// at the limit is killed. Failed assertions and exceptions in a child give exit code 1. Call it
// before this process has started threads.
inline std::vector<RankEnd> fork_ranks(int ranks, const std::function<void(int rank)>& body,
                                       std::chrono::seconds limit = std::chrono::seconds(100)) {
  std::fflush(nullptr);
  const pid_t parent = ::getpid();
  std::vector<pid_t> pids;
  std::vector<RankEnd> ends(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t pid = ::fork();
    if (pid == 0) internal::run_child(rank, parent, body);
    EXPECT_GT(pid, 0) << "fork failed";
    pids.push_back(pid);
  }
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (size_t i = 0; i < pids.size(); ++i) {
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pids[i], 0));
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                          deadline - std::chrono::steady_clock::now())
                          .count();
    pollfd poll{fd, POLLIN, 0};
    if (::poll(&poll, 1, left > 0 ? static_cast<int>(left) : 0) <= 0) {
      ends[i].timed_out = true;
      ::kill(pids[i], SIGKILL);
    }
    if (fd >= 0) ::close(fd);
    int status = 0;
    ::waitpid(pids[i], &status, 0);
    if (WIFEXITED(status)) ends[i].exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) ends[i].signal = WTERMSIG(status);
  }
  return ends;
}

inline void expect_well(const RankEnd& end, size_t rank) {
  EXPECT_FALSE(end.timed_out) << "rank " << rank << " hung and was killed";
  if (end.timed_out) return;
  EXPECT_EQ(end.signal, 0) << "rank " << rank << " ended by signal " << end.signal;
  EXPECT_EQ(end.exit_code, end.signal == 0 ? 0 : -1)
      << "rank " << rank << " failed; its output is above";
}

// fork_ranks() where all ranks must do well.
inline void run_ranks(int ranks, const std::function<void(int rank)>& body) {
  const auto ends = fork_ranks(ranks, body);
  for (size_t rank = 0; rank < ends.size(); ++rank) expect_well(ends[rank], rank);
}

}  // namespace lockstep::test
