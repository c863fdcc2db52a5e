// What a job under mpirun does when one of its ranks has an accident: it ends, soon, and says why.
#include <cstdio>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "core/base/error.h"

namespace lockstep::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kRanks = 3;  // the last one has the accident

struct Outcome {
  int code;
  std::string output;
};

class MpiFaultTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::system("command -v mpirun >/dev/null") != 0)
      GTEST_SKIP() << "mpirun is missing; install openmpi-bin to run this test";
  }

  // A job that does not end within mpirun's own limit fails the test by its output.
  static Outcome run(const std::string& accident, const std::string& reduction) {
    const std::string command = str("LOCKSTEP_MPIRUN_TIMEOUT=40 ", MPIRUN, " ", kRanks, " ",
                                    MPI_FAULT_RANK, " '", accident, "' ", reduction, " 2>&1");
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) throw EnvironmentError("cannot start " + command);
    Outcome outcome;
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
      outcome.output.append(buffer, n);
    const int status = pclose(pipe);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    EXPECT_THAT(outcome.output, Not(HasSubstr("user-provided time limit"))) << "the job hung";
    EXPECT_NE(outcome.code, 0);
    return outcome;
  }
};

TEST_P(MpiFaultTest, AStoppedRankIsNamedByTheOthers) {
  EXPECT_THAT(run("stop", GetParam()).output,
              AllOf(HasSubstr("all_reduce #21"), HasSubstr("rank 2 (pid "),
                    HasSubstr(", stopped) has not arrived")));
}

// The group is not MPI's, but MPI ends with the process, and must not wait for the stopped rank as
// for one that is healthy.
TEST_F(MpiFaultTest, AStoppedRankOfASharedMemoryGroupDoesNotKeepTheJob) {
  EXPECT_THAT(run("stop", "shm").output,
              AllOf(HasSubstr("all_reduce #21"), HasSubstr("is stopped and has not arrived"),
                    HasSubstr("leaving without MPI_Finalize")));
}

TEST_F(MpiFaultTest, AStoppedRankIsNotWaitedForAsOneThatComputesWhileGroupsAreMade) {
  EXPECT_THAT(run("stop", "groups").output,
              AllOf(HasSubstr("limit of 2 s for a stopped rank reached"), HasSubstr("rank 2 (pid "),
                    HasSubstr(", stopped) has not arrived")));
}

INSTANTIATE_TEST_SUITE_P(Reduction, MpiFaultTest, ::testing::Values("tree", "fast"),
                         [](const auto& test) { return std::string(test.param); });

TEST_F(MpiFaultTest, AKilledRankEndsTheJob) {
  EXPECT_THAT(run("kill", "tree").output, HasSubstr("signal 9"));
}

TEST_F(MpiFaultTest, ARankThatExitsEndsTheJob) { run("exit", "tree"); }

TEST_F(MpiFaultTest, ARankThatThrowsEndsTheJobWithItsMessage) {
  EXPECT_THAT(run("throw", "fast").output, HasSubstr("rank 2: the data is gone"));
}

TEST_F(MpiFaultTest, ARankThatNeverStartsEndsTheWaitForIt) {
  EXPECT_THAT(run("never starts", "tree").output, HasSubstr("some ranks have not reached it"));
}

}  // namespace
}  // namespace lockstep::comm
