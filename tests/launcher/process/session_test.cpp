#include "launcher/process/session.h"

#include <csignal>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

// A process that waits, with this variable in its environment.
pid_t waiting_with(const std::string& variable) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execl("/usr/bin/env", "env", variable.c_str(), "sleep", "1000", nullptr);
    ::_exit(127);
  }
  return pid;
}

TEST(Marked, a_whole_value_is_not_the_beginning_of_another) {
  const std::string name = str("LOCKSTEP_TEST_MARK_", ::getpid(), "=/fd/");
  const pid_t one = waiting_with(name + "17"), other = waiting_with(name + "170");
  // Until both have their environments. Signal 0 does nothing.
  while (signal_marked(name.c_str(), 0) < 2) ::usleep(1000);
  EXPECT_EQ(signal_marked((name + "17").c_str(), SIGKILL, /*whole=*/true), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(one, &status, 0), one);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(::waitpid(other, &status, WNOHANG), 0);
  EXPECT_EQ(signal_marked(name.c_str(), SIGKILL), 1);
  ASSERT_EQ(::waitpid(other, &status, 0), other);
}

}  // namespace
}  // namespace lockstep::launcher
