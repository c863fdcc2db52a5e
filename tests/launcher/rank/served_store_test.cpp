// The store that rank 0 serves itself takes in its own job's ranks, each once.
#include "launcher/rank/served_store.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/lobby.h"
#include "launcher/rendezvous/server.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr auto kLong = std::chrono::seconds(60);

Endpoint somewhere() { return {"127.0.0.1", free_port("127.0.0.1")}; }

TEST(ServedStore, ranks_of_another_job_are_refused_by_name) {
  const Endpoint at = somewhere();
  auto first = served_store(at, {.job = "Slurm step 12.0", .rank = 0, .size = 2}, kLong);
  EXPECT_THAT(
      error_of([&] { served_store(at, {.job = "Slurm step 12.1", .rank = 1, .size = 2}, kLong); }),
      AllOf(HasSubstr("rank 1 of 2 (pid "),
            HasSubstr("is of Slurm step 12.1, but the store at this address is of Slurm step 12.0"),
            HasSubstr("MASTER_PORT")));
  // Its rank 0 finds the address taken, and learns by whom.
  EXPECT_THAT(
      error_of([&] { served_store(at, {.job = "Slurm step 12.1", .rank = 0, .size = 2}, kLong); }),
      HasSubstr("is of Slurm step 12.1, but the store at this address is of Slurm step 12.0"));
  // The first job is not harmed.
  auto second = served_store(at, {.job = "Slurm step 12.0", .rank = 1, .size = 2}, kLong);
  second->set("k", "v");
  EXPECT_EQ(first->get("k", kLong), "v");
  second.reset();
}

TEST(ServedStore, a_rank_of_a_job_of_another_size_is_refused) {
  const Endpoint at = somewhere();
  auto first = served_store(at, {.rank = 0, .size = 2}, kLong);
  EXPECT_THAT(error_of([&] { served_store(at, {.rank = 2, .size = 3}, kLong); }),
              AllOf(HasSubstr("rank 2 of 3"), HasSubstr("which has 2 rank(s)")));
}

TEST(ServedStore, while_ranks_are_missing_two_that_are_the_same_rank_end_the_job) {
  const Endpoint at = somewhere();
  auto first = served_store(at, {.rank = 0, .size = 3}, kLong);
  auto second = served_store(at, {.rank = 1, .size = 3}, kLong);
  std::string waiting;
  std::thread waiter([&] { waiting = error_of([&] { second->get("never", kLong); }); });
  const std::string refused = error_of([&] { served_store(at, {.rank = 1, .size = 3}, kLong); });
  waiter.join();
  for (const std::string& said : {refused, waiting, error_of([&] { first->set("k", "v"); })})
    EXPECT_THAT(said, AllOf(HasSubstr("two processes are rank 1 of a job without a name"),
                            HasSubstr("two jobs use one address")));
}

TEST(ServedStore, a_complete_job_is_not_harmed_by_a_latecomer) {
  const Endpoint at = somewhere();
  auto first = served_store(at, {.rank = 0, .size = 2}, kLong);
  auto second = served_store(at, {.rank = 1, .size = 2}, kLong);
  for (const int rank : {0, 1})
    EXPECT_THAT(error_of([&] { served_store(at, {.rank = rank, .size = 2}, kLong); }),
                HasSubstr("two processes are rank"));
  second->set("k", "v");
  EXPECT_EQ(first->get("k", kLong), "v");
  second.reset();
}

TEST(ServedStore, each_serves_under_an_id_of_its_own) {
  const Endpoint at = somewhere();
  auto first = served_store(at, {.job = "j", .rank = 0, .size = 2}, kLong);
  auto second = served_store(at, {.job = "j", .rank = 1, .size = 2}, kLong);
  second->set("k", "v");
  std::thread leaving([&] { first.reset(); });
  second.reset();
  leaving.join();
  first = served_store(at, {.job = "j", .rank = 0, .size = 2}, kLong);
  // Whoever guesses a name of the job does not get in.
  for (const char* guess : {"", "j", "default"}) {
    GrpcStore stranger(at, guess, /*epoch=*/0, kLong);
    EXPECT_THAT(error_of([&] { stranger.set("k", "v"); }), HasSubstr("is served here"));
  }
}

TEST(ServedStore, an_agents_rendezvous_is_named) {
  RendezvousServer agent(Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r7"});
  const Endpoint at{"127.0.0.1", agent.port()};
  for (const int rank : {0, 1})
    EXPECT_THAT(error_of([&] { served_store(at, {.rank = rank, .size = 2}, kLong); }),
                AllOf(HasSubstr("the rendezvous of a run of `lockstep run` is at this address"),
                      Not(HasSubstr("r7")), HasSubstr("MASTER_PORT")));
}

TEST(Lobby, waits_for_none_that_never_came) {
  LobbyBook book({.job = "j", .size = 3});
  EXPECT_TRUE(book.empty());
  book.enter("j", 0, 3, "pid 1", "a");
  book.enter("j", 0, 3, "pid 1", "a");  // an answer was lost
  book.enter("j", 2, 3, "pid 2", "b");
  book.leave(2, "not b");
  book.leave(0, "a");
  EXPECT_FALSE(book.empty());
  book.leave(2, "b");
  EXPECT_TRUE(book.empty());
  EXPECT_EQ(book.conflict(), "");
}

}  // namespace
}  // namespace lockstep::launcher
