#include "core/device/cuda/sim/faults.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <execinfo.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/device/cuda/sim/kernel.h"
#include "core/device/cuda/sim/kernel_language.h"

namespace lockstep::cuda::sim {
namespace {

struct Range {
  const char* begin;
  size_t bytes;
  int owner;
};
// Written before the count grows, which is all that a handler reads.
std::array<Range, 65> ranges;
std::atomic<size_t> range_count{0};
struct sigaction before;
thread_local const char* executing_name = nullptr;

const Range* range_of(const void* address) {
  const char* at = static_cast<const char*>(address);
  for (size_t i = 0; i < range_count.load(std::memory_order_acquire); ++i)
    if (at >= ranges[i].begin && at < ranges[i].begin + ranges[i].bytes) return &ranges[i];
  return nullptr;
}

// snprintf is not in the list of what a handler may call, but glibc's takes no lock and no memory
// for these formats.
void explain(const Range& range, const void* address) {
  char who[160], whose[32], text[400];
  if (executing_name && in_kernel())
    std::snprintf(who, sizeof who, "kernel %s, block %u, thread %u,", executing_name,
                  position.block.x, position.thread.x);
  else if (executing_name)
    std::snprintf(who, sizeof who, "queued work (%s)", executing_name);
  else
    std::snprintf(who, sizeof who, "the host");
  if (range.owner == kPinnedOwner)
    std::snprintf(whose, sizeof whose, "pinned memory");
  else
    std::snprintf(whose, sizeof whose, "memory of device %d", range.owner);
  const char* why = executing_name || range.owner == kPinnedOwner
                        ? ": freed, beyond an allocation, or of another device"
                        : "";
  const int length =
      std::snprintf(text, sizeof text, "[simulated GPU] %s touched %s at %p%s (thread %ld)\n", who,
                    whose, address, why, syscall(SYS_gettid));
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, static_cast<size_t>(length));
  std::array<void*, 64> frames;
  backtrace_symbols_fd(frames.data(), backtrace(frames.data(), frames.size()), STDERR_FILENO);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const Range* range = range_of(info->si_addr);
  if (!range) {
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
      return before.sa_handler(signal);
  } else {
    explain(*range, info->si_addr);
  }
  // The instruction faults again when this returns, now with the default action.
  std::signal(signal, SIG_DFL);
}

void install() {
  void* frame;
  backtrace(&frame, 1);  // loads what it needs outside the handler
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &before);
}

}  // namespace

void watch_range(const char* begin, size_t bytes, int owner) {
  const size_t count = range_count.load(std::memory_order_relaxed);
  if (count == 0) install();
  if (count == ranges.size()) return;
  ranges[count] = {begin, bytes, owner};
  range_count.store(count + 1, std::memory_order_release);
}

void set_executing(const char* name) { executing_name = name; }
const char* executing() { return executing_name; }

}  // namespace lockstep::cuda::sim
