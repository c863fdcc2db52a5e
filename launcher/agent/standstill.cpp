#include "launcher/agent/standstill.h"

#include <fstream>
#include <sstream>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The command that thaws the process; empty where its control group is not frozen, or cannot be seen from here.
std::string frozen_group(pid_t pid) {
  std::istringstream groups(contents(str("/proc/", pid, "/cgroup")));
  // "6:freezer:/path" in the first version of control groups, "0::/path" in the second.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controller = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controller == "freezer") {
      const std::string state = "/sys/fs/cgroup/freezer" + path + "/freezer.state";
      if (contents(state).starts_with("FR")) return "echo THAWED > " + state;  // FROZEN or FREEZING
    }
    if (!controller.empty()) continue;
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      const std::string folder = mount + path;
      if (contents(folder + "/cgroup.events").find("frozen 1") != std::string::npos) return "echo 0 > " + folder + "/cgroup.freeze";
    }
  }
  return "";
}

}  // namespace

ProcessLook look_at(pid_t pid) {
  const std::string stat = contents(str("/proc/", pid, "/stat"));
  const size_t close = stat.rfind(')');  // the name before it may hold anything
  if (close == std::string::npos) return {};
  std::istringstream fields(stat.substr(close + 1));
  char state = '?';
  fields >> state;
  ProcessLook look;
  std::string skipped;
  for (int i = 0; i < 10; ++i) fields >> skipped;
  uint64_t user = 0, system = 0;
  fields >> user >> system;
  look.cpu_ticks = user + system;
  look.thaw = frozen_group(pid);
  if (!look.thaw.empty()) {
    look.still = Standstill::frozen;
  } else if (state == 'T') {
    look.still = Standstill::stopped;
  } else if (state == 't') {
    look.still = Standstill::traced;
  } else if (state == 'D') {
    look.still = Standstill::kernel;
  }
  return look;
}

std::string to_text(Standstill still) {
  switch (still) {
    case Standstill::none: return "";
    case Standstill::stopped: return "is stopped (state T)";
    case Standstill::traced: return "is held by a debugger (state t)";
    case Standstill::frozen: return "is frozen by its control group";
    case Standstill::kernel: return "waits for the kernel (state D): for a disk, or a network file system?";
  }
  return "";
}

}  // namespace lockstep::launcher
