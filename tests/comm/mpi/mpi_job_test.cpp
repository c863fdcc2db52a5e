// What a process knows of an MPI job before it uses MPI, and what it is told where there is none.
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi/factory.h"
#include "comm/mpi/job.h"
#include "comm/process_group.h"
#include "comm/store.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class MpiJobTest : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    for (const char* name : {"RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"})
      unsetenv(str("OMPI_COMM_WORLD_", name).c_str());
  }
  static void set(const char* name, const char* value) {
    setenv(str("OMPI_COMM_WORLD_", name).c_str(), value, 1);
  }
};

TEST_F(MpiJobTest, IsNoneWithoutMpirun) {
  EXPECT_FALSE(mpi_job().has_value());
  EXPECT_FALSE(is_mpi_job());
}

TEST_F(MpiJobTest, ReadsWhatMpirunSets) {
  set("RANK", "5");
  set("SIZE", "8");
  set("LOCAL_RANK", "1");
  set("LOCAL_SIZE", "4");
  const auto job = mpi_job();
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ(job->rank, 5);
  EXPECT_EQ(job->size, 8);
  EXPECT_EQ(job->local_rank, 1);
  EXPECT_EQ(job->local_size, 4);
}

TEST_F(MpiJobTest, NamesTheVariableThatMakesNoSense) {
  set("RANK", "two");
  EXPECT_THAT(
      [] { mpi_job(); },
      ThrowsMessage<UsageError>(HasSubstr("OMPI_COMM_WORLD_RANK must be a number, got 'two'")));
  set("RANK", "2");
  EXPECT_THAT([] { mpi_job(); },
              ThrowsMessage<UsageError>(HasSubstr("OMPI_COMM_WORLD_SIZE is not set")));
  set("SIZE", "2");
  set("LOCAL_RANK", "0");
  set("LOCAL_SIZE", "1");
  EXPECT_THAT([] { mpi_job(); }, ThrowsMessage<UsageError>(
                                     HasSubstr("OMPI_COMM_WORLD_RANK is 2, expected less than")));
}

TEST_F(MpiJobTest, SeveralRanksNeedMpirun) {
  if (!has_mpi()) GTEST_SKIP() << "this build has no MPI";
  EXPECT_THAT([] { create("mpi", nullptr, 0, 2); },
              ThrowsMessage<UsageError>(HasSubstr("mpirun -np 2")));
}

TEST_F(MpiJobTest, RankAndSizeMustBeThoseOfMpirun) {
  if (!has_mpi()) GTEST_SKIP() << "this build has no MPI";
  for (const char* name : {"RANK", "LOCAL_RANK"}) set(name, "0");
  for (const char* name : {"SIZE", "LOCAL_SIZE"}) set(name, "2");
  EXPECT_THAT([] { create("mpi", nullptr, 1, 2); },
              ThrowsMessage<UsageError>(HasSubstr("rank 0 of 2, got rank 1 of 2")));
}

TEST_F(MpiJobTest, OneRankNeedsNoMpirun) {
  if (!has_mpi()) GTEST_SKIP() << "this build has no MPI";
  const auto group = create("mpi", nullptr, 0, 1);
  EXPECT_EQ(group->backend_name(), "mpi");
  group->barrier().wait();
  mpi_store()->set("key", "value");
  EXPECT_EQ(mpi_store()->get("key", Duration::zero()), "value");
}

TEST_F(MpiJobTest, ABuildWithoutMpiSaysHowToGetIt) {
  if (has_mpi()) GTEST_SKIP() << "this build has MPI";
  EXPECT_THAT([] { create("mpi", nullptr, 0, 2); },
              ThrowsMessage<UsageError>(HasSubstr("libopenmpi-dev")));
  EXPECT_THAT([] { mpi_store(); }, ThrowsMessage<UsageError>(HasSubstr("libopenmpi-dev")));
}

}  // namespace
}  // namespace lockstep::comm
