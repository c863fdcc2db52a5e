#include "launcher/process/stop_signals.h"

#include <atomic>
#include <cerrno>
#include <ctime>

#include <fcntl.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

std::atomic<int> g_write_end{-1};
static_assert(std::atomic<int>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

// The time of Clock. clock_gettime is async-signal-safe.
Duration monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec);
}

void on_signal(int signal) {
  const int error = errno;
  const StopSignals::Arrival arrival{.signal = signal, .at = monotonic_now()};
  // A write this small is never split.
  [[maybe_unused]] const ssize_t written = ::write(g_write_end.load(), &arrival, sizeof arrival);
  errno = error;
}

void set(int signal, void (*handler)(int), struct sigaction* before) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, before);
}

}  // namespace

StopSignals::StopSignals(std::span<const int> more) {
  int ends[2];
  check(g_write_end.load() < 0, "[launch] another launch is under way in this process");
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
    throw EnvironmentError("[launch] pipe: " + errno_text(errno));
  read_end_ = ends[0];
  g_write_end = ends[1];
  sigset_t ours;
  ::sigemptyset(&ours);
  for (size_t i = 0; i < std::size(kStopSignals); ++i) {
    set(kStopSignals[i], on_signal, &before_[i]);
    // Under nohup the job outlives its terminal.
    if (kStopSignals[i] == SIGHUP && before_[i].sa_handler == SIG_IGN)
      ::sigaction(SIGHUP, &before_[i], nullptr);
    ::sigaddset(&ours, kStopSignals[i]);
  }
  for (const int signal : more) {
    set(signal, on_signal, &more_before_.emplace_back(signal, (struct sigaction){}).second);
    ::sigaddset(&ours, signal);
  }
  for (size_t i = 0; i < std::size(kOthers); ++i)
    set(kOthers[i], kOthers[i] == SIGCHLD ? SIG_DFL : SIG_IGN, &others_before_[i]);
  ::pthread_sigmask(SIG_UNBLOCK, &ours, &mask_before_);
}

StopSignals::~StopSignals() {
  ::pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  for (size_t i = 0; i < std::size(kStopSignals); ++i)
    ::sigaction(kStopSignals[i], &before_[i], nullptr);
  for (const auto& [signal, before] : more_before_) ::sigaction(signal, &before, nullptr);
  for (size_t i = 0; i < std::size(kOthers); ++i)
    ::sigaction(kOthers[i], &others_before_[i], nullptr);
  ::close(g_write_end.exchange(-1));
  ::close(read_end_);
}

std::optional<StopSignals::Arrival> StopSignals::next() {
  Arrival arrival;
  if (::read(read_end_, &arrival, sizeof arrival) != sizeof arrival) return std::nullopt;
  return arrival;
}

SignalsBlocked::SignalsBlocked() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

}  // namespace lockstep::launcher
