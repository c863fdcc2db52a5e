#include "launcher/rank/lease.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "launcher/base/agent_page.h"
#include "launcher/rank/job_environment.h"

namespace lockstep::launcher {
namespace {

// Longest sleep of the watch: a host that slept wakes without notice.
constexpr Duration kLook = std::chrono::milliseconds(200);

AgentPage* map_page() {
  const std::string path = env("LOCKSTEP_AGENT_PAGE");
  if (path.empty()) return nullptr;
  const auto failed = [&](const std::string& why) {
    return EnvironmentError(
        str("[launcher] the memory of this rank's agent, ", path, " (LOCKSTEP_AGENT_PAGE): ", why));
  };
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) throw failed(errno_text(errno));
  struct stat info {};
  const bool fits = ::fstat(fd, &info) == 0 && info.st_size == sizeof(AgentPage);
  void* data = fits ? ::mmap(nullptr, sizeof(AgentPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                    : MAP_FAILED;
  const int error = errno;
  ::close(fd);
  if (!fits) throw failed("it has another size; use the same version of lockstep everywhere");
  if (data == MAP_FAILED) throw failed(errno_text(error));
  return static_cast<AgentPage*>(data);
}

// Stays mapped until the process ends. Null: no agent.
AgentPage* page() {
  static AgentPage* const mapped = map_page();
  return mapped;
}

[[noreturn]] void watch(const AgentPage& shared) {
  while (!shared.lease_passed()) {
    const Duration left(shared.lease_until_ns.load() - boot_time().count());
    std::this_thread::sleep_for(std::clamp<Duration>(left, std::chrono::milliseconds(1), kLook));
  }
  log::error("[launcher] the agent of this rank has lost touch with the job: the rank ends itself");
  while (true) ::kill(::getpid(), SIGKILL);
}

}  // namespace

void watch_lease() {
  static std::once_flag once;
  std::call_once(once, [] {
    const AgentPage* shared = page();
    // The agent that holds the rendezvous has no limit, and never gets one.
    if (!shared || shared->lease_until_ns.load() == kEndlessLease.count()) return;
    start_thread("to watch over the agent's lease", [shared] { watch(*shared); }).detach();
  });
}

void require_lease(std::string_view what) {
  const AgentPage* shared = page();
  if (!shared || !shared->lease_passed()) return;
  throw EnvironmentError(
      str("[launcher] ", what,
          " is not written: this rank's agent has lost touch with the job, and a "
          "later epoch may have begun without it"));
}

void report_progress(int64_t steps) {
  AgentPage* shared = page();
  const bool is_virtual = std::getenv("LOCKSTEP_LOCAL_RANK") != nullptr;
  const int local_rank = number_from(is_virtual ? "LOCKSTEP_LOCAL_RANK" : "LOCAL_RANK");
  if (!shared || local_rank < 0 || local_rank >= AgentPage::kMostRanks) return;
  shared->progress[local_rank] = steps < 0 ? -1 : steps + 1;
}

}  // namespace lockstep::launcher
