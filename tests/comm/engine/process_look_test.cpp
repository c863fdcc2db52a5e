#include "comm/engine/process_look.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace lockstep::comm {
namespace {

// A process that runs `body`, which does not return; ended with this object.
class Child {
 public:
  template <typename F>
  explicit Child(F body) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    ::_exit(0);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  int pid() const { return pid_; }

 private:
  const int pid_;
};

std::string doing(int pid) { return doings(std::vector{pid}).front(); }

// Until the process has come as far as that.
void await_state(int pid, const std::string& states) {
  for (const Deadline limit = Deadline::after(std::chrono::seconds(30)); !limit.passed();
       std::this_thread::yield()) {
    const auto look = look_at_process(pid);
    if (look && states.find(look->state) != std::string::npos) return;
  }
  FAIL() << "process " << pid << " does not reach state " << states;
}

TEST(ProcessLook, TellsWhatAProcessDoes) {
  const Child idle([] { ::pause(); });
  const Child stopped([] { ::raise(SIGSTOP); });
  const Child busy([] {
    for (std::atomic<uint64_t> i = 0;;) ++i;
  });
  await_state(idle.pid(), "S");
  await_state(stopped.pid(), "T");
  EXPECT_EQ(doings(std::vector{idle.pid(), stopped.pid(), busy.pid()}),
            (std::vector<std::string>{"is idle", "is stopped", "is computing"}));
  EXPECT_TRUE(look_at_process(stopped.pid())->stopped());
  EXPECT_FALSE(look_at_process(idle.pid())->stopped());
}

TEST(ProcessLook, OfADeadProcessIsNothing) {
  int pid = 0;
  {
    const Child child([] { ::_exit(0); });
    pid = child.pid();
    siginfo_t info;
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
    EXPECT_FALSE(look_at_process(pid)) << "nobody has fetched its end yet";
  }
  EXPECT_FALSE(look_at_process(pid));
  EXPECT_EQ(doing(pid), "has ended");
}

TEST(ProcessLook, AProcessAtWhichNobodyCanLookHasNotEnded) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer looks at memory through a pipe, for which no descriptor is left";
#endif
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  const auto look = look_at_process(::getppid());
  const std::string what = doing(::getppid());
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(look && !look->stopped());
  EXPECT_EQ(what, "exists");
}

TEST(ProcessLook, CountsProcessorTime) {
  const auto before = look_at_process(::getpid());
  ASSERT_TRUE(before);
  // Ends as soon as the clock that it looks at has moved on.
  for (const Deadline limit = Deadline::after(std::chrono::seconds(30)); !limit.passed();)
    if (look_at_process(::getpid())->cpu > before->cpu) return;
  FAIL() << "no processor time in 30 s of work";
}

}  // namespace
}  // namespace lockstep::comm
