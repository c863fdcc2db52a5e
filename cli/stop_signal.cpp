#include "cli/stop_signal.h"

#include <atomic>
#include <csignal>

namespace lockstep::cli {
namespace {

std::atomic<bool> g_stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  g_stop.store(true, std::memory_order_relaxed);
  std::signal(signal, SIG_DFL);  // the second one ends the process
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);  // Slurm: sbatch --signal=USR1@60
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // ignored: nohup
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t held;
  sigemptyset(&held);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) sigaddset(&held, signal);
  sigprocmask(SIG_UNBLOCK, &held, nullptr);
}

bool stop_requested() { return g_stop.load(std::memory_order_relaxed); }

}  // namespace lockstep::cli
