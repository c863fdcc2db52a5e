#include "launcher/rank/rank_env.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/base/root_cause.h"
#include "launcher/process/memory_file.h"
#include "launcher/rank/job_environment.h"
#include "launcher/rendezvous/endpoint.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

// Whatever launcher runs this test must not be seen by it.
bool is_launchers(std::string_view name) {
  for (const char* prefix :
       {"OMPI_", "PMIX_", "PMI_", "MPI_LOCAL", "MV2_", "JSM_", "FLUX_", "PALS_", "ALPS_", "SLURM_",
        "TORCHELASTIC_", "LOCKSTEP_", "MASTER_", "LOCAL_"})
    if (name.starts_with(prefix)) return true;
  return name == "RANK" || name == "WORLD_SIZE";
}

class RankEnvTest : public testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    std::vector<std::string> names;
    for (char** each = environ; *each; ++each) names.emplace_back(*each, std::strcspn(*each, "="));
    for (const std::string& name : names)
      if (is_launchers(name)) ::unsetenv(name.c_str());
  }
  static void set(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }
  static void set_all(const std::map<const char*, const char*>& all) {
    for (const auto& [name, value] : all) set(name, value);
  }
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
    EXPECT_NE(std::string(e.what()).find("WORLD_SIZE must be a number, got 'two'"),
              std::string::npos)
        << e.what();
  }
  set("WORLD_SIZE", "1");
  EXPECT_THROW(detect_rank(), UsageError) << "rank 1 of 1";
  EXPECT_THROW(detect_rank(1, std::nullopt), UsageError);
}

TEST_F(RankEnvTest, the_shell_of_an_allocation_is_no_rank) {
  // As salloc's interactive step and sbatch's script have them: the numbers of tasks are those of
  // the allocation.
  for (const char* step : {"4294967290", "4294967291", "4294967292"}) {
    clear();
    set_all({{"SLURM_STEP_ID", step},
             {"SLURM_NTASKS", "4"},
             {"SLURM_PROCID", "0"},
             {"SLURM_JOB_ID", "12"},
             {"PMIX_RANK", "0"}});
    EXPECT_EQ(detect_rank().source, "single") << step;
    EXPECT_FALSE(has_store()) << step;
    EXPECT_EQ(launcher_job(), "") << step;
  }
}

TEST_F(RankEnvTest, the_number_of_tasks_is_that_of_the_step) {
  set_all({{"SLURM_STEP_ID", "1"},
           {"SLURM_NTASKS", "8"},
           {"SLURM_STEP_NUM_TASKS", "1"},
           {"SLURM_PROCID", "0"}});
  EXPECT_EQ(detect_rank().source, "single");
  set_all({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "2"}});
  EXPECT_EQ(detect_rank().size, 3);
}

struct Launched {
  const char* name;
  std::map<const char*, const char*> variables;  // of rank 5 of 8, the second of four on its host
  const char* job;
};
class Launchers : public RankEnvTest, public testing::WithParamInterface<Launched> {};
TEST_P(Launchers, tell_who_a_process_is) {
  set_all(GetParam().variables);
  const RankEnv found = detect_rank();
  EXPECT_EQ(found.source, GetParam().name);
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.size, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.local_size, 4);
  EXPECT_EQ(found.job, GetParam().job);
  EXPECT_EQ(launcher_job(), GetParam().job);
}
INSTANTIATE_TEST_SUITE_P(
    All, Launchers,
    testing::Values(Launched{"Open MPI",
                             {{"OMPI_COMM_WORLD_RANK", "5"},
                              {"OMPI_COMM_WORLD_SIZE", "8"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"PMIX_RANK", "5"},
                              {"PMIX_NAMESPACE", "37"}},
                             "Open MPI job 37"},
                    Launched{"jsrun",
                             {{"JSM_NAMESPACE_RANK", "5"},
                              {"JSM_NAMESPACE_SIZE", "8"},
                              {"JSM_NAMESPACE_LOCAL_RANK", "1"},
                              {"JSM_NAMESPACE_LOCAL_SIZE", "4"},
                              {"PMIX_RANK", "5"}},
                             ""},
                    Launched{"Flux",
                             {{"FLUX_TASK_RANK", "5"},
                              {"FLUX_JOB_SIZE", "8"},
                              {"FLUX_TASK_LOCAL_ID", "1"},
                              {"FLUX_JOB_NNODES", "2"},
                              {"FLUX_JOB_ID", "f1"},
                              {"PMI_RANK", "5"},
                              {"PMI_SIZE", "8"}},
                             "Flux job f1"},
                    Launched{"PALS",
                             {{"PALS_RANKID", "5"},
                              {"PMI_RANK", "5"},
                              {"PMI_SIZE", "8"},
                              {"PALS_LOCAL_RANKID", "1"},
                              {"PMI_LOCAL_SIZE", "4"},
                              {"PALS_APID", "a-1"}},
                             "PALS job a-1"},
                    Launched{"MVAPICH2",
                             {{"MV2_COMM_WORLD_RANK", "5"},
                              {"MV2_COMM_WORLD_SIZE", "8"},
                              {"MV2_COMM_WORLD_LOCAL_RANK", "1"},
                              {"MV2_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"PMI_RANK", "5"},
                              {"PMI_SIZE", "8"}},
                             ""},
                    Launched{"MPICH or Intel MPI",
                             {{"PMI_RANK", "5"},
                              {"PMI_SIZE", "8"},
                              {"MPI_LOCALRANKID", "1"},
                              {"MPI_LOCALNRANKS", "4"},
                              // As mpiexec's helper on the second host of an allocation has them.
                              {"SLURM_STEP_ID", "0"},
                              {"SLURM_NTASKS", "2"},
                              {"SLURM_PROCID", "1"},
                              {"SLURM_JOB_ID", "12"}},
                             ""},
                    Launched{"Slurm",
                             {{"SLURM_STEP_ID", "3"},
                              {"SLURM_STEP_NUM_TASKS", "8"},
                              {"SLURM_PROCID", "5"},
                              {"SLURM_LOCALID", "1"},
                              {"SLURM_NODEID", "1"},
                              {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                              {"SLURM_JOB_ID", "12"},
                              {"PMI_RANK", "5"},
                              {"PMI_SIZE", "8"},
                              {"PMIX_RANK", "5"}},
                             "Slurm step 12.3"}));

TEST_F(RankEnvTest, a_launcher_that_says_too_little_is_named) {
  const auto said = [](const std::map<const char*, const char*>& variables) {
    clear();
    set_all(variables);
    return error_of([] { detect_rank(); });
  };
  EXPECT_THAT(said({{"PMIX_RANK", "1"}}),
              AllOf(HasSubstr("PMIX_RANK is 1"), HasSubstr("set RANK and WORLD_SIZE")));
  EXPECT_THAT(said({{"ALPS_APP_PE", "0"}}),
              AllOf(HasSubstr("aprun"), HasSubstr("ALPS_APP_PE is 0")));
  EXPECT_THAT(said({{"PALS_RANKID", "3"}}),
              AllOf(HasSubstr("PALS started this process"), HasSubstr("PMI_SIZE is not set")));
  EXPECT_THAT(said({{"FLUX_JOB_SIZE", "3"}}),
              AllOf(HasSubstr("Flux"), HasSubstr("FLUX_TASK_RANK is not set")));
  EXPECT_THAT(said({{"PMI_RANK", "1"}, {"RANK", "1"}, {"WORLD_SIZE", "2"}}), "(no error)");
}

TEST_F(RankEnvTest, each_step_of_an_allocation_has_a_port_and_a_name_of_its_own) {
  set_all({{"SLURM_STEP_NUM_TASKS", "2"},
           {"SLURM_PROCID", "1"},
           {"SLURM_JOB_ID", "123456789"},
           {"SLURM_STEP_NODELIST", "n[01-03,7]-ib,m"}});
  std::set<std::string> endpoints, jobs;
  for (const char* step : {"0", "1", "2", "99"}) {
    set("SLURM_STEP_ID", step);
    endpoints.insert(served_endpoint().value().text());
    jobs.insert(detect_rank().job);
    EXPECT_EQ(served_endpoint()->host, "n01-ib");
  }
  EXPECT_EQ(endpoints.size(), 4u);
  EXPECT_EQ(jobs.size(), 4u);
  set("SLURM_STEP_NUM_NODES", "1");
  EXPECT_EQ(served_endpoint()->host, "127.0.0.1");
  const std::string first = detect_rank().job;
  set("SLURM_RESTART_COUNT", "1");
  EXPECT_NE(detect_rank().job, first) << "what is left of a job that was requeued is another job";
}

TEST_F(RankEnvTest, a_step_that_does_not_say_where_it_runs_is_named) {
  set_all({{"SLURM_STEP_ID", "0"}, {"SLURM_JOB_ID", "1"}, {"SLURM_NTASKS", "2"}});
  EXPECT_THAT(error_of([] { served_endpoint(); }), HasSubstr("SLURM_STEP_NODELIST is not set"));
  set("MASTER_ADDR", "n1");
  set("MASTER_PORT", "29561");
  EXPECT_EQ(served_endpoint()->text(), "n1:29561");
}

TEST_F(RankEnvTest, the_masters_address_is_checked) {
  const auto said = [](const char* address, const char* port) {
    clear();
    set_all({{"MASTER_ADDR", address}, {"MASTER_PORT", port}});
    return error_of([] { has_store(); });
  };
  for (const char* port : {"99999", "0", "-1", "65536"})
    EXPECT_THAT(said("n1", port),
                HasSubstr(std::string("MASTER_PORT must be from 1 to 65535, got '") + port + "'"));
  EXPECT_THAT(said("n1", "x"), HasSubstr("MASTER_PORT must be a number, got 'x'"));
  EXPECT_THAT(said("n1:80", "80"),
              HasSubstr("MASTER_ADDR 'n1:80': expected a host name or an address without a port"));
  for (const char* address : {"::1", "[::1]"}) {
    EXPECT_EQ(said(address, "29561"), "(no error)");
    EXPECT_EQ(served_endpoint()->text(), "[::1]:29561");
  }
  clear();
  set("MASTER_ADDR", "n1");
  EXPECT_FALSE(has_store());
  EXPECT_THAT(error_of([] { connect_store(); }),
              HasSubstr("MASTER_ADDR is set, but not MASTER_PORT"));
}

TEST_F(RankEnvTest, torchruns_own_store_is_named) {
  set_all(
      {{"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}, {"RANK", "1"}, {"WORLD_SIZE", "2"}});
  set("TORCHELASTIC_USE_AGENT_STORE", "True");
  EXPECT_THAT(error_of([] { connect_store(); }),
              AllOf(HasSubstr("torchrun keeps its own store"), HasSubstr("127.0.0.1:29500"),
                    HasSubstr("`lockstep run`")));
  set("TORCHELASTIC_USE_AGENT_STORE", "False");
  EXPECT_TRUE(has_store());
}

TEST_F(RankEnvTest, ranks_of_other_launchers_share_a_store_that_rank_0_serves) {
  set("MASTER_ADDR", "127.0.0.1");
  set("MASTER_PORT", std::to_string(free_port("127.0.0.1")));
  set("WORLD_SIZE", "2");
  set("RANK", "0");
  ASSERT_TRUE(has_store());
  auto first = connect_store();
  set("RANK", "1");
  // Another job's rank.
  set("LOCKSTEP_RUN_ID", "other");
  EXPECT_THAT(
      error_of([] { connect_store(); }),
      HasSubstr("is of run 'other', but the store at this address is of a job without a name"));
  ::unsetenv("LOCKSTEP_RUN_ID");
  auto second = connect_store();
  second->set("k", "v");
  EXPECT_EQ(first->get("k", std::chrono::seconds(10)), "v");
  // Rank 0 stays until the other has taken leave.
  std::thread leaving([&] { first.reset(); });
  second->set("later", "x");
  second.reset();
  leaving.join();
}

// What a rank reports in `reports`, as its agent reads it.
FailureReport report_after(const std::function<void()>& reports) {
  const MemoryFile file("report");
  ::setenv("LOCKSTEP_ERROR_FILE", file.path().c_str(), 1);
  reports();
  return parse_failure_report(file.contents(4096)).value_or(FailureReport{});
}

TEST_F(RankEnvTest, a_save_replaces_what_an_earlier_program_of_the_rank_reported) {
  const FailureReport report = report_after([] {
    report_failure(
        "no such data, as a script tried first and whose message is longer than the word on the "
        "save");
    report_saved();
  });
  EXPECT_TRUE(report.saved) << report.message;
  EXPECT_FALSE(report.at) << "the agent would take that for a failure before the stop";
}

TEST_F(RankEnvTest, the_first_failure_counts_and_replaces_an_earlier_save) {
  const FailureReport report = report_after([] {
    report_saved();
    report_failure("the cause");
    report_failure("a consequence", /*caused_by_peer=*/true);
  });
  EXPECT_FALSE(report.saved);
  EXPECT_EQ(report.message, "the cause");
  EXPECT_FALSE(report.caused_by_peer);
}

TEST(Endpoint, parses_what_people_write) {
  EXPECT_EQ(Endpoint::parse("node1", 5).text(), "node1:5");
  EXPECT_EQ(Endpoint::parse("node1:80", 5).text(), "node1:80");
  EXPECT_EQ(Endpoint::parse("[::1]:80", 5).text(), "[::1]:80");
  EXPECT_EQ(Endpoint::parse("::1", 5).text(), "[::1]:5");
  EXPECT_EQ(Endpoint::parse("fe80::1", 5).text(), "[fe80::1]:5");
  for (const char* bad : {"", ":80", "host:", "host:x", "host:70000", "host:-1", "[::1", "[::1]80",
                          "::1:29561", "a:b:c"})
    EXPECT_THROW(Endpoint::parse(bad, 5), UsageError) << bad;
}

}  // namespace
}  // namespace lockstep::launcher
