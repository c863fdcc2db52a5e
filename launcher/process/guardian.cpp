#include "launcher/process/guardian.h"

#include <cerrno>
#include <ctime>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/process/session.h"
#include "launcher/process/stop_signals.h"

namespace lockstep::launcher {
namespace {

constexpr int kMaxSessions = 4096;
constexpr time_t kLongest = 5;  // s; a process that the kernel cannot end is left to it

// Runs after a fork without exec, perhaps of a process with many threads: async-signal-safe calls
// only.
[[noreturn]] void guard(int pipe) {
  ::setsid();  // a signal to the agent's group is not for the guardian
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2})
    ::signal(signal, SIG_IGN);
  ::prctl(PR_SET_NAME, "lockstep-guard");
  // Nobody may wait for a pipe or a port of the agent because the guardian still has it.
  ::dup2(pipe, 3);
  ::close_range(4, ~0U, 0);
  const int null = ::open("/dev/null", O_RDWR);
  for (const int fd : {0, 1, 2}) ::dup2(null, fd);
  ::close(null);

  static pid_t sessions[kMaxSessions];
  int count = 0;
  pid_t message = 0;
  while (true) {
    const ssize_t got = ::read(3, &message, sizeof message);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof message) break;
    if (message > 0 && count < kMaxSessions) sessions[count++] = message;
    for (int i = 0; message < 0 && i < count; ++i)
      if (sessions[i] == -message) sessions[i--] = sessions[--count];
  }
  // Again, as long as a process was there: it may have started another one while the round went.
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const time_t until = now.tv_sec + kLongest;
  for (int found = 1; found > 0 && now.tv_sec < until; ::clock_gettime(CLOCK_MONOTONIC, &now)) {
    found = 0;
    for (int i = 0; i < count; ++i) found += signal_session(sessions[i], SIGKILL);
    const timespec pause{0, 1000000};
    ::nanosleep(&pause, nullptr);
  }
  ::_exit(0);
}

}  // namespace

Guardian::Guardian() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw EnvironmentError("[launch] pipe: " + errno_text(errno));
  {
    const SignalsBlocked blocked;  // and they stay so in the guardian
    pid_ = ::fork();
    if (pid_ == 0) guard(ends[0]);
  }
  if (pid_ < 0)
    throw EnvironmentError("[launch] cannot start the guardian process: " + errno_text(errno));
  ::close(ends[0]);
  pipe_ = ends[1];
}

Guardian::~Guardian() {
  ::close(pipe_);
  // Whoever stopped all that is called lockstep need not have let this one go on.
  ::kill(pid_, SIGCONT);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Guardian::forget(pid_t session) {
  const pid_t message = -session;
  // A write this small is never split. If somebody killed the guardian there is nobody to tell;
  // SIGPIPE is ignored during a launch.
  while (::write(pipe_, &message, sizeof message) < 0 && errno == EINTR) {
  }
}

}  // namespace lockstep::launcher
