// How ranks learn who the others are, and what they see where one does not come or says nonsense.
#include "comm/engine/roll_call.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/local/hash_store.h"
#include "core/base/error.h"
#include "tests/support/counting_store.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

constexpr Duration kLong = std::chrono::seconds(60);

Limit limit(Duration duration) { return Limit(Patience(duration)); }

// Any bytes, also those that mean something to the store or to the roll.
std::string saying(int rank) { return std::string("\0 \n\xff-", 5) + std::to_string(rank); }

TEST(RollCall, EveryRankHearsAllWithFewRequestsAndLeavesNoKeys) {
  for (const int size : {2, 7, 16}) {
    const auto store = std::make_shared<HashStore>();
    test::run_threads(size, [&](int rank) {
      test::CountingStore counting(store);
      const auto all = call_roll(counting, rank, size, saying(rank), limit(kLong), "test");
      ASSERT_EQ(all.size(), static_cast<size_t>(size));
      for (int r = 0; r < size; ++r) {
        EXPECT_EQ(all[static_cast<size_t>(r)].says, saying(r));
        EXPECT_EQ(all[static_cast<size_t>(r)].pid, ::getpid());
        EXPECT_EQ(all[static_cast<size_t>(r)].processes, all.front().processes);
      }
      EXPECT_LE(counting.requests(), 10) << "rank " << rank << " of " << size;
    });
    EXPECT_EQ(store->size(), 0u);
  }
}

TEST(RollCall, RanksThatDoNotComeAreNamedOnAllAndLearnWhy) {
  HashStore store;
  test::run_threads(6, [&](int rank) {
    if (rank == 2 || rank == 5) return;
    const std::string message = test::error_of(
        [&] { call_roll(store, rank, 6, "", limit(std::chrono::milliseconds(300)), "test"); });
    EXPECT_NE(message.find("ranks 2 and 5 of 6 did not join"), std::string::npos) << message;
  });
  const std::string late =
      test::error_of([&] { call_roll(store, 5, 6, "", limit(kLong), "test"); });
  EXPECT_NE(late.find("did not join in time"), std::string::npos) << late;
}

TEST(RollCall, ADeadRankIsNamedLongBeforeTheLimit) {
  HashStore store;
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  const Attendant me = this_process("");
  store.set("here-1", str("1 ", dead, " ", me.processes, " ", me.network, " host \n"));
  const std::string message =
      test::error_of([&] { call_roll(store, 0, 2, "", limit(kLong), "test"); });
  EXPECT_NE(message.find(str("rank 1 (pid ", dead, ") of 2 died")), std::string::npos) << message;
}

// Somebody else writes to the place: no rank forms a group from that.
TEST(RollCall, NonsenseIsRefusedOnAllRanks) {
  const Attendant me = this_process("");
  const auto line = [&](int rank, const std::string& hex) {
    return str(rank, " 7 ", me.processes, " ", me.network, " host ", hex, "\n");
  };
  for (const std::string& said :
       {std::string("nonsense"), line(2, "00"), line(-1, "00"), line(0, "00"), line(1, "0"),
        line(1, "zz"), line(1, "00") + line(1, "00"), std::string(), line(1, "00") + line(7, "")}) {
    HashStore store;
    store.set("part-1", said);
    const std::string message =
        test::error_of([&] { call_roll(store, 0, 2, "", limit(kLong), "test"); });
    EXPECT_TRUE(message.find("damaged") != std::string::npos ||
                message.find("of 2 ranks") != std::string::npos)
        << "'" << said << "': " << message;
    const std::string other =
        test::error_of([&] { call_roll(store, 1, 2, "", limit(kLong), "test"); });
    EXPECT_NE(other.find("rank 0: "), std::string::npos) << other;
  }
}

}  // namespace
}  // namespace lockstep::comm
