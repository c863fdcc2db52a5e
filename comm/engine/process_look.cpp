#include "comm/engine/process_look.h"

#include <algorithm>
#include <cerrno>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::comm {
namespace {

// Some ticks of the clock in which the kernel counts processor time.
constexpr auto kBetweenLooks = std::chrono::milliseconds(50);

std::string doing(const std::optional<ProcessLook>& before, const std::optional<ProcessLook>& now) {
  if (!now) return "has ended";
  if (now->state == '?') return "exists";
  if (now->stopped()) return "is stopped";
  // A thread that computes may be without a core for as long.
  if (now->state == 'R' || (before && (before->state == 'R' || now->cpu > before->cpu)))
    return "is computing";
  return now->state == 'D' ? "waits for a device" : "is idle";
}

}  // namespace

std::optional<ProcessLook> look_at_process(int pid) {
  const int fd = ::open(str("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno != ENOENT)
    return ProcessLook{};  // no descriptor is left, say: that is no death
  char line_bytes[1024];
  const ssize_t got = fd < 0 ? 0 : ::read(fd, line_bytes, sizeof line_bytes);
  if (fd >= 0) ::close(fd);
  const std::string line(line_bytes, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  const size_t end = line.rfind(") ");  // the program's name may hold anything
  if (end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(end + 2));
  ProcessLook look;
  std::string skipped;
  int64_t user = 0, system = 0;
  fields >> look.state;
  for (int i = 0; i < 10; ++i) fields >> skipped;
  fields >> user >> system;
  if (look.state == 'Z' || look.state == 'X') return std::nullopt;
  look.cpu = std::chrono::nanoseconds(1'000'000'000 / ::sysconf(_SC_CLK_TCK)) * (user + system);
  return look;
}

std::vector<std::string> doings(std::span<const int> pids) {
  std::vector<std::optional<ProcessLook>> before;
  for (const int pid : pids) before.push_back(look_at_process(pid));
  std::this_thread::sleep_for(kBetweenLooks);
  std::vector<std::string> texts;
  for (size_t i = 0; i < pids.size(); ++i)
    texts.push_back(doing(before[i], look_at_process(pids[i])));
  return texts;
}

}  // namespace lockstep::comm
