#include "core/base/cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

#include <sched.h>

#include "core/base/number_text.h"

namespace lockstep {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) parts.push_back(part);
  return parts;
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Two numbers of microseconds. "max", -1 and anything that is not a number mean no quota.
double cores_of(const std::string& quota, const std::string& period) {
  const int64_t time = parse_number<int64_t>(quota).value_or(-1);
  const int64_t of = parse_number<int64_t>(period).value_or(-1);
  return time > 0 && of > 0 ? static_cast<double>(time) / static_cast<double>(of) : kNoQuota;
}

std::string first_line(const std::optional<std::string>& text) {
  return text ? text->substr(0, text->find('\n')) : std::string();
}

// Returns what one group allows: "200000 100000" in cpu.max (version 2), or one file for each of
// the two numbers (version 1).
double quota_of_group(const ReadFile& read, const std::string& folder, bool version2) {
  if (!version2)
    return cores_of(first_line(read(folder + "/cpu.cfs_quota_us")),
                    first_line(read(folder + "/cpu.cfs_period_us")));
  const std::vector<std::string> words = split(first_line(read(folder + "/cpu.max")), ' ');
  return words.size() == 2 ? cores_of(words[0], words[1]) : kNoQuota;
}

// A hierarchy of control groups as this process sees it: see mountinfo in proc(5).
struct Mount {
  std::string root;  // the group that is shown at `path`
  std::string path;
  bool version2;
};

std::vector<Mount> cpu_mounts(const std::string& mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string& line : split(mountinfo, '\n')) {
    const std::vector<std::string> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (dash - words.begin() < 5 || words.end() - dash < 4) continue;
    const std::string& kind = dash[1];
    if (kind == "cgroup2" || (kind == "cgroup" && contains(split(dash[3], ','), "cpu")))
      mounts.push_back({words[3], words[4], kind == "cgroup2"});
  }
  return mounts;
}

// Returns the smallest quota of the group at `path` and its visible parents.
double quota_below(const ReadFile& read, const Mount& mount, const std::string& path) {
  const std::string root = mount.root == "/" ? "" : mount.root;
  // In a container, its own group may appear as the root, under another name.
  std::string inside = path == root || path.starts_with(root + "/") ? path.substr(root.size()) : "";
  if (inside == "/") inside.clear();
  double least = quota_of_group(read, mount.path, mount.version2);
  for (; !inside.empty(); inside.resize(inside.rfind('/')))
    least = std::min(least, quota_of_group(read, mount.path + inside, mount.version2));
  return least;
}

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

}  // namespace

double cpu_quota(const ReadFile& read) {
  const std::vector<Mount> mounts = cpu_mounts(read("/proc/self/mountinfo").value_or(""));
  double least = kNoQuota;
  // "4:cpu,cpuacct:/path" in version 1, "0::/path" in version 2.
  for (const std::string& line : split(read("/proc/self/cgroup").value_or(""), '\n')) {
    const size_t controllers = line.find(':');
    const size_t path =
        controllers == std::string::npos ? controllers : line.find(':', controllers + 1);
    if (path == std::string::npos) continue;
    const std::string names = line.substr(controllers + 1, path - controllers - 1);
    if (!names.empty() && !contains(split(names, ','), "cpu")) continue;
    for (const Mount& mount : mounts)
      if (mount.version2 == names.empty())
        least = std::min(least, quota_below(read, mount, line.substr(path + 1)));
  }
  return least;
}

double cpu_quota() { return cpu_quota(read_file); }

int bound_cores() {
  cpu_set_t mask;
  return ::sched_getaffinity(0, sizeof mask, &mask) == 0
             ? std::max(1, CPU_COUNT(&mask))
             : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int usable_cores() {
  return std::max(1, static_cast<int>(std::min<double>(bound_cores(), std::ceil(cpu_quota()))));
}

}  // namespace lockstep
