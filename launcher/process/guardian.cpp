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
constexpr time_t kLongest = 5;  // seconds; then a process that the kernel cannot end is left alone

// Runs after a fork without exec, perhaps in a process with many threads: only async-signal-safe
// calls are allowed.
[[noreturn]] void guard(int pipe) {
  ::setsid();  // a signal to the agent's group is not for the guardian
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2})
    ::signal(signal, SIG_IGN);
  ::prctl(PR_SET_NAME, "lockstep-guard");
  // Closes the agent's pipes and ports, because others may wait for them to close.
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
  // Repeats while processes are found: one may have started another during the round.
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
    const SignalsBlocked blocked;  // they stay blocked in the guardian
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
  // Somebody may have stopped every process of this program, and the guardian with it.
  ::kill(pid_, SIGCONT);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Guardian::forget(pid_t session) {
  const pid_t message = -session;
  // A write this small is never split. If the guardian was killed, the write fails and nothing is
  // lost. SIGPIPE is ignored during a launch.
  while (::write(pipe_, &message, sizeof message) < 0 && errno == EINTR) {
  }
}

}  // namespace lockstep::launcher
