#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/rank_env.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {
namespace {

class RankEnvTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
          "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID",
          "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "LOCKSTEP_STORE", "MASTER_ADDR", "MASTER_PORT", "LOCKSTEP_RUN_ID"})
      ::unsetenv(name);
  }
  static void set(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }
};

TEST_F(RankEnvTest, a_plain_process_is_single) {
  const RankEnv env = detect_rank();
  EXPECT_EQ(env.rank, 0);
  EXPECT_EQ(env.size, 1);
  EXPECT_EQ(env.source, "single");
  EXPECT_FALSE(has_store());
  EXPECT_THROW(connect_store(), UsageError);
}

TEST_F(RankEnvTest, earlier_sources_win) {
  set("SLURM_STEP_ID", "0");
  set("SLURM_NTASKS", "8");
  set("SLURM_PROCID", "5");
  set("SLURM_NODEID", "2");
  set("SLURM_LOCALID", "0");
  set("SLURM_STEP_TASKS_PER_NODE", "3(x2),2");
  EXPECT_EQ(detect_rank().source, "Slurm");
  EXPECT_EQ(detect_rank().rank, 5);
  EXPECT_EQ(detect_rank().local_size, 2) << "the third node has two tasks";
  set("OMPI_COMM_WORLD_SIZE", "4");
  set("OMPI_COMM_WORLD_RANK", "3");
  set("OMPI_COMM_WORLD_LOCAL_RANK", "1");
  set("OMPI_COMM_WORLD_LOCAL_SIZE", "2");
  EXPECT_EQ(detect_rank().source, "Open MPI");
  EXPECT_EQ(detect_rank().local_rank, 1);
  set("RANK", "1");
  set("WORLD_SIZE", "2");
  EXPECT_EQ(detect_rank().size, 2);
  EXPECT_EQ(detect_rank(0, 16).size, 16);
}

TEST_F(RankEnvTest, an_allocation_without_a_step_is_single) {
  set("SLURM_NTASKS", "8");
  set("SLURM_PROCID", "0");
  EXPECT_EQ(detect_rank().source, "single");
}

TEST_F(RankEnvTest, bad_values_are_named) {
  set("RANK", "1");
  EXPECT_THROW(detect_rank(), UsageError) << "WORLD_SIZE is missing";
  set("WORLD_SIZE", "two");
  try {
    detect_rank();
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("WORLD_SIZE must be a number, got 'two'"), std::string::npos) << e.what();
  }
  set("WORLD_SIZE", "1");
  EXPECT_THROW(detect_rank(), UsageError) << "rank 1 of 1";
  EXPECT_THROW(detect_rank(1, std::nullopt), UsageError);
}

TEST_F(RankEnvTest, ranks_of_other_launchers_share_a_store_that_rank_0_serves) {
  set("MASTER_ADDR", "127.0.0.1");
  set("MASTER_PORT", std::to_string(free_port("127.0.0.1")));
  set("WORLD_SIZE", "2");
  set("RANK", "0");
  ASSERT_TRUE(has_store());
  auto first = connect_store();
  set("RANK", "1");
  auto second = connect_store();
  second->set("k", "v");
  EXPECT_EQ(first->get("k", std::chrono::seconds(10)), "v");
  // Rank 0 stays until the other has taken leave.
  std::thread leaving([&] { first.reset(); });
  second->set("later", "x");
  second.reset();
  leaving.join();
}

TEST(Endpoint, parses_what_people_write) {
  EXPECT_EQ(Endpoint::parse("node1", 5).text(), "node1:5");
  EXPECT_EQ(Endpoint::parse("node1:80", 5).text(), "node1:80");
  EXPECT_EQ(Endpoint::parse("[::1]:80", 5).text(), "[::1]:80");
  EXPECT_EQ(Endpoint::parse("::1", 5).text(), "[::1]:5");
  for (const char* bad : {"", ":80", "host:", "host:x", "host:70000", "host:-1", "[::1", "[::1]80"})
    EXPECT_THROW(Endpoint::parse(bad, 5), UsageError) << bad;
}

}  // namespace
}  // namespace lockstep::launcher
