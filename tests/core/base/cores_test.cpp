// What groups allow, from the texts of the system's files.
#include "core/base/cores.h"

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep {
namespace {

using Files = std::map<std::string, std::string>;

constexpr const char* kVersion2 =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid,noexec - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr const char* kVersion1 =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n";

double quota(const Files& files) {
  return cpu_quota([&](const std::string& path) -> std::optional<std::string> {
    const auto found = files.find(path);
    return found == files.end() ? std::nullopt : std::optional(found->second);
  });
}

// A process in the group "/" of a container that limits it.
double quota_of(const std::string& cpu_max) {
  return quota({{"/proc/self/mountinfo", kVersion2},
                {"/proc/self/cgroup", "0::/\n"},
                {"/sys/fs/cgroup/cpu.max", cpu_max}});
}

TEST(CpuQuota, IsWhatCpuMaxSays) {
  EXPECT_EQ(quota_of("200000 100000\n"), 2);
  EXPECT_EQ(quota_of("150000 100000\n"), 1.5);
  EXPECT_EQ(quota_of("5000 50000"), 0.1);
  EXPECT_TRUE(std::isinf(quota_of("max 100000\n")));
}

TEST(CpuQuota, IsNoneWhereTheTextMakesNoSense) {
  for (const char* text :
       {"", "\n", "200000", "200000 0\n", "-5 100000\n", "0 100000\n", "two 100000\n",
        "200000x 100000\n", "200000 100000 7\n", "99999999999999999999 100000\n"})
    EXPECT_TRUE(std::isinf(quota_of(text))) << text;
  EXPECT_TRUE(std::isinf(quota({})));
  EXPECT_TRUE(std::isinf(quota({{"/proc/self/mountinfo", "- - -\n\n30 23 0:26 / /x rw - cgroup2\n"},
                                {"/proc/self/cgroup", "::\n0\n"}})));
}

TEST(CpuQuota, IsTheLeastOnTheWayUp) {
  Files files{{"/proc/self/mountinfo", kVersion2},
              {"/proc/self/cgroup", "0::/pod/job/step\n"},
              {"/sys/fs/cgroup/pod/cpu.max", "600000 100000\n"},
              {"/sys/fs/cgroup/pod/job/cpu.max", "300000 100000\n"},
              {"/sys/fs/cgroup/pod/job/step/cpu.max", "max 100000\n"},
              {"/sys/fs/cgroup/pod/job/other/cpu.max", "100000 100000\n"}};
  EXPECT_EQ(quota(files), 3);
  files["/sys/fs/cgroup/pod/cpu.max"] = "250000 100000\n";
  EXPECT_EQ(quota(files), 2.5);
}

TEST(CpuQuota, OfVersion1) {
  Files files{
      {"/proc/self/mountinfo", kVersion1},
      {"/proc/self/cgroup", "5:cpuset:/other\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/x\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "400000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(quota(files), 4);
  files["/sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us"] = "-1\n";
  EXPECT_TRUE(std::isinf(quota(files)));
}

TEST(CpuQuota, OfBothVersionsSideBySide) {
  EXPECT_EQ(quota({{"/proc/self/mountinfo",
                    std::string(kVersion1) +
                        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
                   {"/proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/a\n"},
                   {"/sys/fs/cgroup/unified/a/cpu.max", "100000 100000\n"},
                   {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "200000\n"},
                   {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"}}),
            1);
}

// Docker without a namespace of groups: the process is told the host's name of its group, and shown
// that group as the topmost.
TEST(CpuQuota, OfAContainerThatIsShownItsOwnGroupOnly) {
  const std::string mount = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
  const Files files{{"/proc/self/mountinfo", mount},
                    {"/proc/self/cgroup", "4:cpu:/docker/abc/inner\n"},
                    {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
                    {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
                    {"/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "100000\n"},
                    {"/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(quota(files), 1);
  Files elsewhere = files;
  elsewhere["/proc/self/cgroup"] = "4:cpu:/docker/abcdef\n";  // not below what is shown
  EXPECT_EQ(quota(elsewhere), 2);
}

TEST(UsableCores, AreNoMoreThanThoseOfTheMask) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), bound_cores());
}

}  // namespace
}  // namespace lockstep
