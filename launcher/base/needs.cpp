#include "launcher/base/needs.h"

#include <algorithm>
#include <exception>
#include <latch>
#include <mutex>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"

namespace lockstep::launcher {
namespace {

constexpr int kReserved = 64;

rlimit g_before{};
std::once_flag g_once;
bool g_raised = false;

// The system returns the lowest free descriptor, so its number shows how full the table is.
int open_files() {
  const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (next < 0) return file_limit();
  ::close(next);
  return next;
}

}  // namespace

void raise_file_limit() {
  std::call_once(g_once, [] {
    if (::getrlimit(RLIMIT_NOFILE, &g_before) != 0) return;
    rlimit raised = g_before;
    raised.rlim_cur = raised.rlim_max;
    g_raised = ::setrlimit(RLIMIT_NOFILE, &raised) == 0;
    if (g_raised && raised.rlim_cur > g_before.rlim_cur)
      log::debug("[launch] limit of open files: raised from ", g_before.rlim_cur, " to ",
                 raised.rlim_cur);
  });
}

void restore_file_limit() {
  if (g_raised) ::setrlimit(RLIMIT_NOFILE, &g_before);
}

int file_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur > 1u << 30 ? 1 << 30 : static_cast<int>(limit.rlim_cur);
}

int reserved_files(int limit) { return std::min(kReserved, limit / 4); }

void require_files(int more, const std::string& who) {
  raise_file_limit();
  const int used = open_files() + more, limit = file_limit();
  if (used <= limit - reserved_files(limit)) return;
  int needed = used;
  while (used > needed - reserved_files(needed)) ++needed;
  throw EnvironmentError(
      str("[launch] the limit of open files is ", limit, ", but ", who, " needs ", needed,
          ": raise it (ulimit -n, systemd's LimitNOFILE, or the container's --ulimit nofile)"));
}

void require_threads(size_t count, const std::string& who) {
  std::latch end(1);
  std::vector<std::jthread> threads;
  std::string refused;
  try {
    while (threads.size() < count) threads.emplace_back([&end] { end.wait(); });
  } catch (const std::exception& error) {
    refused = error.what();
  }
  end.count_down();
  if (!refused.empty())
    throw EnvironmentError(str("[launch] the system grants ", threads.size(), " of the ", count,
                               " threads that ", who, " needs (", refused, "): ", thread_advice()));
}

}  // namespace lockstep::launcher
