// How the ranks of a group find each other in a store, and what they leave there.
#include "comm/engine/meeting.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

#include "comm/local/hash_store.h"
#include "core/base/error.h"
#include "tests/support/counting_store.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

class Meetings : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, Meetings, testing::Values("local", "shm"),
                         [](const auto& param) { return param.param; });

TEST_P(Meetings, GroupsAndTheirSplitsLeaveNoKeys) {
  constexpr int kRanks = 4;
  const auto store = std::make_shared<HashStore>();
  store->set("of somebody else", "1");
  test::run_threads(kRanks, [&](int rank) {
    for (int i = 0; i < 3; ++i) {
      const auto same = create(GetParam(), store, rank, kRanks, {.name = "again"});
      const auto other = create(GetParam(), store, rank, kRanks, {.name = str("group ", i)});
      const auto part = other->split(rank % 2, rank);
      const auto whole = part->split(rank == 0 ? -1 : 0, rank);
      part->barrier().wait();
    }
  });
  EXPECT_EQ(store->size(), 1u);
}

// Each rank begins its next group as soon as it is done with one, however far the others are.
TEST_P(Meetings, TheNthGroupOfANameMeetsTheNth) {
  constexpr int kRanks = 3;
  const auto store = std::make_shared<HashStore>();
  test::run_threads(kRanks, [&](int rank) {
    for (int i = 0; i < 20; ++i) {
      const auto g = create(GetParam(), store, rank, kRanks);
      const Tensor round = Tensor::full({1}, i, DType::i32);
      g->broadcast(round, 0).wait();
      EXPECT_EQ(round.data<int32_t>()[0], i);
    }
  });
  EXPECT_EQ(store->size(), 0u);
}

TEST_P(Meetings, ARankThatGaveUpMeetsTheOthersAtItsNextTry) {
  const auto store = std::make_shared<HashStore>();
  EXPECT_NE(test::error_of([&] {
              create(GetParam(), store, 0, 2, {.timeout = std::chrono::milliseconds(1)});
            }),
            "");
  const std::string first = store->get("group/world/open", std::chrono::seconds(60));
  test::run_threads(2, [&](int rank) {
    // The other one comes when rank 0 has come again, so that it does not find the first place.
    if (rank == 1) store->get("again", std::chrono::seconds(60));
    std::unique_ptr<ProcessGroup> g;
    std::thread again;
    if (rank == 0)
      again = std::thread([&] {
        while (store->get("group/world/open", std::chrono::seconds(60)) == first)
          std::this_thread::yield();
        store->set("again", "");
      });
    g = create(GetParam(), store, rank, 2, {.timeout = std::chrono::seconds(60)});
    g->barrier().wait();
    if (again.joinable()) again.join();
  });
}

// Ranks 2 and 3 of four give up waiting for the others, and come again as ranks 0 and 1 of two.
// They meet at places of their own: nobody finds the place where they gave up any more.
TEST_P(Meetings, RanksThatGaveUpMayComeAgainAsOthers) {
  const auto store = std::make_shared<HashStore>();
  const auto both_are_here = [&](const char* what, int rank) {
    store->set(str(what, rank), "");
    store->get(str(what, 1 - rank), std::chrono::seconds(60));
  };
  test::run_threads(2, [&](int rank) {
    EXPECT_NE(test::error_of([&] {
                create(GetParam(), store, 2 + rank, 4, {.timeout = std::chrono::milliseconds(20)});
              }),
              "");
    both_are_here("gave up", rank);
    for (int i = 0; i < 3; ++i) {
      const auto g = create(GetParam(), store, rank, 2, {.timeout = std::chrono::seconds(60)});
      const Tensor round = Tensor::full({1}, i, DType::i32);
      g->broadcast(round, 0).wait();
      EXPECT_EQ(round.data<int32_t>()[0], i);
    }
  });
  EXPECT_EQ(store->compare_and_set("group/world/open", "", "nobody"), "nobody");
}

// The same for any number of ranks, but for one rank that removes the keys, all in one request.
TEST_P(Meetings, ARankAsksTheStoreAFewTimesHoweverManyThereAre) {
  for (const int ranks : {2, 3, 8, 16}) {
    const auto store = std::make_shared<HashStore>();
    std::vector<std::shared_ptr<test::CountingStore>> seen;
    for (int r = 0; r < ranks; ++r) seen.push_back(std::make_shared<test::CountingStore>(store));
    test::run_threads(ranks, [&](int rank) {
      const auto g =
          create(GetParam(), seen[static_cast<size_t>(rank)], rank, ranks, {.name = "counted"});
      g->split(0, rank)->barrier().wait();
    });
    size_t keys = 0;
    for (const auto& each : seen) {
      EXPECT_LE(each->requests(), 14) << "of " << ranks << " ranks";
      keys += each->keys();
    }
    EXPECT_LE(keys, static_cast<size_t>(14 * ranks)) << "of " << ranks << " ranks";
  }
}

}  // namespace
}  // namespace lockstep::comm
