#include "launcher/process/guardian.h"

#include <cerrno>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <poll.h>
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
// The longest sleep: a host that slept wakes without notice.
constexpr int kLookMs = 1000;
// How often to look for processes while the lease has passed.
constexpr int kPassedMs = 100;

struct Sessions {
  char mark[64];  // what the environment of every rank has: signal_marked()
  pid_t numbers[kMaxSessions];
  int count;
  void take(pid_t message) {
    if (message > 0 && count < kMaxSessions) numbers[count++] = message;
    for (int i = 0; message < 0 && i < count; ++i)
      if (numbers[i] == -message) numbers[i--] = numbers[--count];
  }
  // Returns how many processes there are.
  int signal(int signal) const {
    int found = 0;
    for (int i = 0; i < count; ++i) found += signal_session(numbers[i], signal);
    if (signal != 0) found += signal_marked(mark, signal);
    return found;
  }
};

// Repeats while processes are found: one may have started another during the round.
void kill_all(const Sessions& sessions) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const time_t until = now.tv_sec + kLongest;
  while (sessions.signal(SIGKILL) > 0 && now.tv_sec < until) {
    const timespec pause{0, 1000000};
    ::nanosleep(&pause, nullptr);
    ::clock_gettime(CLOCK_MONOTONIC, &now);
  }
}

// Waits for a message, at most until the lease may have passed.
void wait_for_message(const AgentPage& page) {
  const int64_t left_ms = (page.lease_until_ns.load() - boot_time().count()) / 1000000 + 1;
  pollfd poll{3, POLLIN, 0};
  ::poll(&poll, 1,
         left_ms < 1         ? kPassedMs
         : left_ms < kLookMs ? static_cast<int>(left_ms)
                             : kLookMs);
}

// Runs after a fork without exec, perhaps in a process with many threads: only async-signal-safe
// calls are allowed.
[[noreturn]] void guard(int pipe, AgentPage& page, const char* mark) {
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

  ::fcntl(3, F_SETFL, O_NONBLOCK);
  static Sessions sessions;
  std::strcpy(sessions.mark, mark);
  while (true) {
    pid_t message = 0;
    const ssize_t got = ::read(3, &message, sizeof message);
    if (got == sizeof message) {
      sessions.take(message);
    } else if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
      // A rank that starts after the lease has passed is killed, too.
      if (page.lease_passed() && sessions.signal(0) > 0) {
        ++page.fenced;
        kill_all(sessions);
      }
      wait_for_message(page);
    } else {
      break;
    }
  }
  kill_all(sessions);
  ::_exit(0);
}

}  // namespace

Guardian::Guardian(AgentPage& page) {
  const std::string mark = str("LOCKSTEP_ERROR_FILE=/proc/", ::getpid(), "/fd/");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw EnvironmentError("[launch] pipe: " + errno_text(errno));
  {
    const SignalsBlocked blocked;  // they stay blocked in the guardian
    pid_ = ::fork();
    if (pid_ == 0) guard(ends[0], page, mark.c_str());
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
