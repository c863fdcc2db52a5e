#include "launcher/agent/stop_signals.h"

#include <atomic>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

std::atomic<int> g_write_end{-1};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  const int error = errno;
  const auto byte = static_cast<unsigned char>(signal);
  [[maybe_unused]] const ssize_t written = ::write(g_write_end.load(), &byte, 1);
  errno = error;
}

}  // namespace

StopSignals::StopSignals() {
  int ends[2];
  check(g_write_end.load() < 0, "[launch] another launch is under way in this process");
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw EnvironmentError("[launch] pipe: " + errno_text(errno));
  read_end_ = ends[0];
  g_write_end = ends[1];
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], &action, &before_[i]);
    // nohup: the job is to outlive its terminal.
    if (kSignals[i] == SIGHUP && before_[i].sa_handler == SIG_IGN) ::sigaction(SIGHUP, &before_[i], nullptr);
  }
  // A reader of our output that goes away is no reason to end a job.
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &before_pipe_);
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  ::sigaction(SIGPIPE, &before_pipe_, nullptr);
  ::close(g_write_end.exchange(-1));
  ::close(read_end_);
}

int StopSignals::next() {
  unsigned char byte = 0;
  return ::read(read_end_, &byte, 1) == 1 ? byte : 0;
}

}  // namespace lockstep::launcher
