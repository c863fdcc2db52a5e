// What an agent says and does about ranks that stand still, and end late or never.
#include <cerrno>
#include <fstream>
#include <memory>
#include <thread>

#include <gmock/gmock.h>

#include "launcher/rendezvous/endpoint.h"
#include "tests/launcher/agent_process.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using test::AgentProcess;
using test::Scratch;
using test::shell;
using test::Watched;
using testing::HasSubstr;
using testing::Not;

// A control group that a test freezes, and one below it for the processes; none where this machine
// does not let us.
class Freezer {
 public:
  // `version` of control groups; `mounts`: where it may be.
  Freezer(int version, const std::vector<std::string>& mounts) : version_(version) {
    for (const std::string& mount : mounts) {
      std::error_code error;
      const std::string path = str(mount, "/lockstep-test-", ::getpid());
      if (usable_ || !std::filesystem::create_directory(path, error)) continue;
      path_ = path;
      usable_ = std::filesystem::create_directory(below(), error) &&
                std::filesystem::exists(path_ + "/" + file());
      if (!usable_) remove();
    }
  }
  ~Freezer() {
    if (!usable_) return;
    freeze(false);
    remove();
  }
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;

  bool usable() const { return usable_; }
  void take(pid_t pid) { std::ofstream(below() + "/cgroup.procs") << pid; }
  void freeze(bool frozen) {
    std::ofstream(path_ + "/" + file()) << (frozen ? (version_ == 1 ? "FROZEN" : "1") : thawed());
  }
  // The command that a person is told.
  std::string thaw() const { return str("'echo ", thawed(), " > ", path_, "/", file(), "'"); }

 private:
  std::string below() const { return path_ + "/ranks"; }
  std::string file() const { return version_ == 1 ? "freezer.state" : "cgroup.freeze"; }
  std::string thawed() const { return version_ == 1 ? "THAWED" : "0"; }
  void remove() {
    for (const std::string& path : {below(), path_})
      for (int i = 0; i < 6000 && ::rmdir(path.c_str()) != 0 && errno == EBUSY; ++i)
        std::this_thread::sleep_for(milliseconds(10));
  }

  const int version_;
  std::string path_;
  bool usable_ = false;
};

// Rank 1 stands still, as `rank_1` says, and rank 0 gives up waiting for it when the test says so.
LaunchSpec one_waits(const Scratch& scratch, const std::string& rank_1) {
  LaunchSpec spec = shell(2, "[ $RANK = 1 ] && { echo pid $$; exec " + rank_1 +
                                 "; }; read line < " + scratch.gate() +
                                 "; echo '{\"message\":\"rank 1 did not "
                                 "come\",\"caused_by_peer\":true}' > $LOCKSTEP_ERROR_FILE; exit 7");
  spec.grace = milliseconds(50);
  return spec;
}

// A job of which rank 1 is frozen, as far as its end.
void expect_blamed(Freezer& freezer, pid_t& rank, std::string& output) {
  Scratch scratch;
  // It would handle SIGTERM, if it could.
  AgentProcess agent(
      one_waits(scratch, "sh -c 'trap : TERM; while :; do sleep 1000 & wait $!; done'"));
  rank = agent.number_after("[rank 1] pid ");
  ASSERT_GT(rank, 0);
  freezer.take(rank);
  freezer.freeze(true);
  EXPECT_TRUE(agent.wait_for(str("(pid ", rank, " on host ", host_name(),
                                 ") is frozen by its control group and holds up the others; ",
                                 freezer.thaw())))
      << agent.output();
  std::ofstream(scratch.gate()) << "give up\n";
  EXPECT_EQ(agent.finish(), 7) << agent.output();
  output = agent.output();
  EXPECT_THAT(output, HasSubstr(str("┌ rank 1 on host ", host_name(), " (pid ", rank,
                                    "): stood still until the others gave up")));
  EXPECT_THAT(output, HasSubstr(str(
                          "rank 1 (pid ", rank,
                          ") did not end in time; it is frozen by its control group: killing it")));
}

// In the first version of control groups a frozen process cannot be killed.
TEST(Standstill, a_job_ends_without_a_rank_that_not_even_sigkill_ends) {
  Freezer freezer(1, {"/sys/fs/cgroup/freezer"});
  if (!freezer.usable())
    GTEST_SKIP() << "no control group can be made below /sys/fs/cgroup/freezer";
  pid_t rank = 0;
  std::string output;
  expect_blamed(freezer, rank, output);
  EXPECT_THAT(output, HasSubstr("does not end 5 s after SIGKILL: it is frozen by its control "
                                "group; the job ends without it"));
  const Watched process(rank);
  EXPECT_TRUE(process.found());
  freezer.freeze(false);
  EXPECT_TRUE(process.ended()) << "the SIGKILL waits for it";
}

// In the second one it can.
TEST(Standstill, a_frozen_rank_is_named_and_ended) {
  Freezer freezer(2, {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"});
  if (!freezer.usable())
    GTEST_SKIP() << "no control group of version 2 can be made below /sys/fs/cgroup";
  pid_t rank = 0;
  std::string output;
  expect_blamed(freezer, rank, output);
  EXPECT_THAT(output, Not(HasSubstr("does not end")));
  EXPECT_NE(::kill(rank, 0), 0) << "it is still there";
}

// As by a disk that does not answer: a process that starts another one waits for the kernel until
// that one runs its program, which it cannot before somebody opens the pipe that is to be its
// input.
TEST(Standstill, a_rank_that_waits_for_the_kernel_is_named_and_ended) {
  if (std::system("command -v python3 > /dev/null") != 0)
    GTEST_SKIP() << "python3 is not installed";
  Scratch scratch;
  const std::string never = scratch.path() + "/never";
  ::mkfifo(never.c_str(), 0600);
  AgentProcess agent(
      one_waits(scratch,
                "python3 -c 'import os; os.posix_spawn(\"/bin/true\", [\"true\"], {}, "
                "file_actions=[(os.POSIX_SPAWN_OPEN, 0, \"" +
                    never + "\", os.O_RDONLY, 0)])'"));
  const pid_t rank = agent.number_after("[rank 1] pid ");
  ASSERT_GT(rank, 0);
  EXPECT_TRUE(agent.wait_for(
      str("(pid ", rank, " on host ", host_name(), ") waits for the kernel (state D)")))
      << agent.output();
  std::ofstream(scratch.gate()) << "give up\n";
  EXPECT_EQ(agent.finish(), 7) << agent.output();
  EXPECT_THAT(agent.output(), HasSubstr(str("┌ rank 1 on host ", host_name(), " (pid ", rank,
                                            "): stood still until the others gave up")));
  EXPECT_THAT(agent.output(), HasSubstr("│ reason: waits for the kernel (state D)"));
}

}  // namespace
}  // namespace lockstep::launcher
