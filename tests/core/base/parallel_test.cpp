#include "core/base/parallel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/cores.h"
#include "core/base/error.h"

namespace lockstep {
namespace {

using ::testing::Each;
using ::testing::ExitedWithCode;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// Runs the test with a number of threads, and gives the old number back.
class Threads {
 public:
  explicit Threads(int threads) : before_(num_threads()) { set_num_threads(threads); }
  ~Threads() { set_num_threads(before_); }

 private:
  int before_;
};

// How often each piece of one call was computed.
std::vector<int> counts(int64_t pieces) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(pieces));
  parallel_for(pieces, [&](int64_t i) { ++seen[static_cast<size_t>(i)]; });
  return {seen.begin(), seen.end()};
}

// Lets threads wait until there are n of them.
class Meeting {
 public:
  explicit Meeting(int n) : missing_(n) {}
  void join() {
    std::unique_lock lock(mutex_);
    if (--missing_ == 0) all_.notify_all();
    all_.wait(lock, [this] { return missing_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  int missing_;
};

// Exit status of a child process that does `work` and then leaves with its result.
template <typename Work>
int in_child(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(work());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class ParallelFor : public ::testing::TestWithParam<int> {};

TEST_P(ParallelFor, ComputesEachPieceOnce) {
  const Threads threads(GetParam());
  EXPECT_EQ(num_threads(), GetParam());
  for (const int64_t pieces : {0, 1, 2, 3, 7, 1000, 100000})
    EXPECT_THAT(counts(pieces), Each(1)) << pieces;
}

// Calls so short that workers come for pieces of one call and find the next, or none.
TEST_P(ParallelFor, ManyTinyCalls) {
  const Threads threads(GetParam());
  std::array<int64_t, 5> sums{};  // not atomic: what a call has written must be seen after it
  for (int64_t call = 0; call < 20000; ++call)
    parallel_for(1 + call % 5, [&](int64_t i) { sums[static_cast<size_t>(i)] += call; });
  std::array<int64_t, 5> want{};
  for (int64_t call = 0; call < 20000; ++call)
    for (int64_t i = 0; i < 1 + call % 5; ++i) want[static_cast<size_t>(i)] += call;
  EXPECT_EQ(sums, want);
}

TEST_P(ParallelFor, AllThreadsTakePart) {
  const Threads threads(GetParam());
  for (int round = 0; round < 3; ++round) {
    Meeting meeting(GetParam());  // nobody leaves a piece before each has one
    std::mutex mutex;
    std::set<std::thread::id> took_part;
    parallel_for(GetParam(), [&](int64_t) {
      meeting.join();
      std::lock_guard lock(mutex);
      took_part.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(took_part.size(), static_cast<size_t>(GetParam()));
    EXPECT_TRUE(took_part.contains(std::this_thread::get_id()));
  }
}

TEST_P(ParallelFor, AnExceptionReachesTheCallerAndEndsTheCall) {
  const Threads threads(GetParam());
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> begun{0};
    const auto call = [&] {
      parallel_for(10000, [&](int64_t i) {
        ++begun;
        if (i == round) throw std::runtime_error("piece " + std::to_string(i));
      });
    };
    EXPECT_THAT(call, ThrowsMessage<std::runtime_error>("piece " + std::to_string(round)));
    // With more threads, the others may have run through all of it before one had thrown.
    if (GetParam() == 1) {
      EXPECT_EQ(begun, round + 1);
    }
  }
  EXPECT_THAT(counts(1000), Each(1));
}

TEST_P(ParallelFor, OneOfSeveralExceptionsReachesTheCaller) {
  const Threads threads(GetParam());
  for (int round = 0; round < 200; ++round)
    EXPECT_THAT([] { parallel_for(64, [](int64_t) { throw std::runtime_error("a piece"); }); },
                ThrowsMessage<std::runtime_error>("a piece"));
}

TEST_P(ParallelFor, NestedCallsRunInTheCallingThread) {
  const Threads threads(GetParam());
  std::vector<std::atomic<int>> seen(64 * 8);
  std::atomic<int> elsewhere{0};
  parallel_for(64, [&](int64_t i) {
    const auto me = std::this_thread::get_id();
    parallel_for(8, [&](int64_t j) {
      if (std::this_thread::get_id() != me) ++elsewhere;
      ++seen[static_cast<size_t>(8 * i + j)];
    });
  });
  EXPECT_EQ(elsewhere, 0);
  EXPECT_THAT(std::vector<int>(seen.begin(), seen.end()), Each(1));
}

TEST_P(ParallelFor, StaysInTheThreadOfAScope) {
  const Threads threads(GetParam());
  const std::thread::id self = std::this_thread::get_id();
  {
    const OneThreadScope outer;
    { const OneThreadScope inner; }
    parallel_for(1000, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), self); });
  }
  Meeting meeting(GetParam());
  parallel_for(GetParam(), [&](int64_t) { meeting.join(); });  // needs all threads
}

TEST_P(ParallelFor, SeveralCallersAtOnce) {
  const Threads threads(GetParam());
  std::vector<std::thread> callers;
  std::array<int, 6> wrong{};
  for (size_t c = 0; c < wrong.size(); ++c)
    callers.emplace_back([&wrong, c] {
      for (int call = 0; call < 2000; ++call) {
        if (call % 100 == 99) {
          try {
            parallel_for(8, [](int64_t i) {
              if (i == 5) throw std::runtime_error("mine");
            });
            ++wrong[c];
          } catch (const std::runtime_error&) {
          }
        }
        for (const int count : counts(1 + call % 17)) wrong[c] += count != 1;
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(wrong, Each(0));
}

// A caller that waits in a body for another caller's whole call: with one queue for all of them
// this would never end.
TEST_P(ParallelFor, ACallerIsNotHeldUpByAnotherOnesPieces) {
  const Threads threads(GetParam());
  Meeting begun(2), done(2);
  std::thread other([&] {
    begun.join();
    for (int call = 0; call < 100; ++call) counts(50);
    done.join();
  });
  parallel_for(2, [&](int64_t i) {
    if (i == 0) {
      begun.join();
      done.join();
    }
  });
  other.join();
}

TEST_P(ParallelFor, TheNumberOfThreadsMayChangeAtAnyTime) {
  const Threads threads(GetParam());
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int n = 0; !stop; ++n) set_num_threads(1 + n % 5);
  });
  for (int call = 0; call < 2000; ++call) ASSERT_THAT(counts(1 + call % 40), Each(1));
  stop = true;
  changer.join();
}

int compute_in_child() {
  Meeting all(num_threads());
  parallel_for(num_threads(), [&](int64_t) { all.join(); });
  const std::vector<int> seen = counts(1000);
  return std::ranges::all_of(seen, [](int count) { return count == 1; }) ? 0 : 1;
}

TEST_P(ParallelFor, WorksInAChildOfFork) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer ends a child that starts threads when its parent had some";
#elif defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP()
      << "AddressSanitizer stays locked in a child that is made while another thread starts";
#endif
  const Threads threads(GetParam());
  counts(100);
  EXPECT_EQ(in_child(compute_in_child), 0);
  EXPECT_EQ(in_child([] { return in_child(compute_in_child); }), 0);
  EXPECT_THAT(counts(100), Each(1));
}

TEST_P(ParallelFor, WorksInAChildOfForkWhileOthersCompute) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer ends a child that starts threads when its parent had some";
#elif defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer's allocator stays locked in a child that is made while another "
                  "thread allocates";
#endif
  const Threads threads(GetParam());
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) counts(40);
  });
  for (int child = 0; child < 50; ++child) EXPECT_EQ(in_child(compute_in_child), 0);
  stop = true;
  busy.join();
}

TEST_P(ParallelFor, WorkersLeaveSignalsToTheProgramsThreads) {
  const Threads threads(GetParam());
  Meeting meeting(GetParam());
  std::atomic<int> open{0};
  parallel_for(GetParam(), [&](int64_t) {
    meeting.join();
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    open += !sigismember(&blocked, SIGTERM) || !sigismember(&blocked, SIGINT);
  });
  EXPECT_EQ(open, 1);
}

TEST_P(ParallelFor, TheProcessEndsWhereverWorkersAre) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto leave_from_within = [](int threads) {
    set_num_threads(threads);
    counts(100);
    parallel_for(100, [](int64_t i) {
      if (i == 50) std::exit(5);
    });
  };
  EXPECT_EXIT(leave_from_within(GetParam()), ExitedWithCode(5), "");
}

INSTANTIATE_TEST_SUITE_P(, ParallelFor, ::testing::Values(1, 2, 4, 16),
                         ::testing::PrintToStringParamName());

// Each expectation runs in a program of its own, which has not asked for the number before.
class NumThreads : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

[[noreturn]] void leave_with_number(const char* variable) {
  if (variable)
    setenv("OMP_NUM_THREADS", variable, 1);
  else
    unsetenv("OMP_NUM_THREADS");
  try {
    _exit(num_threads());
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(100);
  }
}

TEST_F(NumThreads, ComesFromTheEnvironment) {
  EXPECT_EXIT(leave_with_number("3"), ExitedWithCode(3), "");
  EXPECT_EXIT(leave_with_number("5,2"), ExitedWithCode(5), "");
  EXPECT_EXIT(leave_with_number(" 2"), ExitedWithCode(2), "");
  EXPECT_EXIT(leave_with_number("\t4 , 2 "), ExitedWithCode(4), "");
}

TEST_F(NumThreads, IsElseThatOfTheCoresThatTheProcessMayUse) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  EXPECT_EXIT(leave_with_number(nullptr), ExitedWithCode(usable_cores()), "");
  EXPECT_EXIT(leave_with_number(""), ExitedWithCode(usable_cores()), "");
  EXPECT_EXIT(
      {
        sched_setaffinity(0, sizeof one, &one);
        leave_with_number(nullptr);
      },
      ExitedWithCode(1), "");
}

TEST_F(NumThreads, MustBeANumber) {
  for (const char* wrong : {"0", "-1", "two", "2x", "2 x", " ", "99999999999"})
    EXPECT_EXIT(leave_with_number(wrong), ExitedWithCode(100),
                str("OMP_NUM_THREADS: expected a number of threads from 1 to 2147483647, got '",
                    wrong, "'"));
  EXPECT_THAT([] { set_num_threads(0); },
              ThrowsMessage<UsageError>(HasSubstr("expected at least 1 thread, got 0")));
}

// The address space ends after some stacks of 8 MiB.
[[noreturn]] void compute_with_64_threads_where_few_fit() {
  set_num_threads(64);
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlimit limit{.rlim_cur = pages * 4096 + (size_t{40} << 20), .rlim_max = RLIM_INFINITY};
  setrlimit(RLIMIT_AS, &limit);
  const bool all = std::ranges::all_of(counts(1000), [](int count) { return count == 1; });
  _exit(all && num_threads() < 64 ? 3 : 1);
}

TEST_F(NumThreads, IsWhatTheSystemGrants) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that is limited here";
#endif
  EXPECT_EXIT(compute_with_64_threads_where_few_fit(), ExitedWithCode(3),
              "the system grants no more threads");
}

}  // namespace
}  // namespace lockstep
