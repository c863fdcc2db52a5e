#include "launcher/agent/standstill.h"

#include <fstream>
#include <sstream>
#include <vector>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// How one version of control groups shows that a group is frozen, and who froze it.
struct Freezer {
  std::string mount;
  // A file of the group, and its content while the group's processes are frozen.
  const char *state, *frozen;
  // `own`: a file that contains 1 if this group itself was frozen. `thaw`: the text that thaws it.
  // `target`: the file that takes this text.
  const char *own, *thaw, *target;
};

// The commands that thaw the group at `path`. A group freezes together with its parents, so these
// may need thawing too.
std::string thaw_commands(const Freezer& freezer, std::string path) {
  std::string commands;
  for (; !path.empty(); path.resize(path.rfind('/'))) {
    const std::string folder = freezer.mount + path + "/";
    if (contents(folder + freezer.own).starts_with("1"))
      commands +=
          str(commands.empty() ? "" : "; ", "echo ", freezer.thaw, " > ", folder, freezer.target);
    if (path.find('/') == std::string::npos) break;
  }
  return commands;
}

// Notes in `look` whether the process is frozen, if that can be seen from here.
void look_at_group(pid_t pid, ProcessLook& look) {
  const Freezer first{"/sys/fs/cgroup/freezer", "freezer.state", "FR",
                      "freezer.self_freezing",  "THAWED",        "freezer.state"};
  std::istringstream groups(contents(str("/proc/", pid, "/cgroup")));
  // A line is "6:freezer:/path" in control groups version 1, and "0::/path" in version 2.
  for (std::string line; std::getline(groups, line);) {
    const size_t before = line.find(':'), behind = line.find(':', before + 1);
    if (behind == std::string::npos) continue;
    const std::string controller = line.substr(before + 1, behind - before - 1),
                      path = line.substr(behind + 1);
    std::vector<Freezer> freezers;
    if (controller == "freezer") freezers = {first};
    if (controller.empty())
      for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
        freezers.push_back(
            {mount, "cgroup.events", "frozen 1", "cgroup.freeze", "0", "cgroup.freeze"});
    for (const Freezer& freezer : freezers) {
      if (contents(freezer.mount + path + "/" + freezer.state).find(freezer.frozen) ==
          std::string::npos)
        continue;
      look.still = Standstill::frozen;
      look.thaw = thaw_commands(freezer, path);
      return;
    }
  }
}

}  // namespace

ProcessLook look_at(pid_t pid) {
  const std::string stat = contents(str("/proc/", pid, "/stat"));
  const size_t close = stat.rfind(')');  // the name before it may contain any character
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
  look_at_group(pid, look);
  if (look.still == Standstill::frozen) {
    // A frozen process may be in any state.
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
    case Standstill::kernel:
      return "waits for the kernel (state D): for a disk, or a network file system?";
  }
  return "";
}

}  // namespace lockstep::launcher
