#include "cli/process/stop_signal.h"

#include <atomic>
#include <csignal>
#include <ctime>

#include <unistd.h>

#include "cli/commands.h"
#include "launcher/base/stop_wish.h"

namespace lockstep::cli {
namespace {

using launcher::kStopSignals;
using launcher::StopWish;

std::atomic<int> g_asked_by{0};  // the first signal; 0: none
std::atomic<int> g_exit_code{0};
static_assert(std::atomic<int>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");
// For signal handlers only. Several threads may handle signals at once.
StopWish g_wish;
std::atomic_flag g_wish_in_use = ATOMIC_FLAG_INIT;

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kStopSignals) sigaddset(&set, signal);
  return set;
}

void on_signal(int signal) {
  int none = 0;
  g_asked_by.compare_exchange_strong(none, signal);
}

void on_signal_alone(int signal) {
  on_signal(signal);
  if (g_wish_in_use.test_and_set()) return;  // of the same instant as another signal: a copy
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const Duration at = std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec);
  const bool insists = g_wish.take(signal, at) == StopWish::Meaning::insist;
  g_wish_in_use.clear();
  if (!insists) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // takes effect when the handler returns
}

void on_signal_done(int) { ::_exit(g_exit_code.load()); }

// An ignored SIGHUP (nohup) stays ignored.
void install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  action.sa_mask = stop_signals();
  for (const int signal : kStopSignals) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (signal != SIGHUP || before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
  const sigset_t held = stop_signals();
  pthread_sigmask(SIG_UNBLOCK, &held, nullptr);
}

}  // namespace

void install_stop_signals(Impatience impatience) {
  install(impatience == Impatience::here ? on_signal_alone : on_signal);
}

bool stop_requested() { return g_asked_by.load(std::memory_order_relaxed) != 0; }

int hand_stop_signals_to(const std::function<int()>& launch) {
  const sigset_t held = stop_signals();
  pthread_sigmask(SIG_BLOCK, &held, nullptr);
  if (const int signal = g_asked_by.load()) std::raise(signal);
  g_exit_code = kFailed;
  try {
    g_exit_code = launch();
  } catch (...) {
    install(on_signal_done);  // only the error message is left, and perhaps nobody reads it
    throw;
  }
  install(on_signal_done);
  return g_exit_code;
}

}  // namespace lockstep::cli
