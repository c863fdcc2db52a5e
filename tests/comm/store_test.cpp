#include "comm/store.h"

#include <gtest/gtest.h>

#include "comm/local/hash_store.h"
#include "core/base/error.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(HashStore, WaitsForKeysOfOtherThreads) {
  HashStore store;
  test::run_threads(2, [&](int rank) {
    if (rank == 0) {
      EXPECT_EQ(store.get("answer", seconds(60)), "42");
      store.set("seen", "");
    } else {
      store.set("answer", "42");
      store.wait({"answer", "seen"}, seconds(60));
      EXPECT_EQ(store.get("seen", seconds(0)), "");
    }
  });
}

TEST(HashStore, AWaitThatFailsNamesTheKey) {
  HashStore store;
  try {
    store.get("nobody/sets/this", milliseconds(5));
    FAIL();
  } catch (const TimeoutError& e) {
    EXPECT_NE(std::string(e.what()).find("nobody/sets/this"), std::string::npos);
  }
  store.set("one", "1");
  EXPECT_THROW(store.wait({"one", "two"}, milliseconds(5)), TimeoutError);
}

TEST(HashStore, CountsFromManyThreads) {
  HashStore store;
  test::run_threads(4, [&](int) {
    for (int i = 0; i < 100; ++i) store.add("counter", 1);
  });
  EXPECT_EQ(store.add("counter", -399), 1);
  store.set("word", "seven");
  EXPECT_THROW(store.add("word", 1), UsageError);
}

TEST(HashStore, CompareAndSetHasOneWinner) {
  HashStore store;
  EXPECT_EQ(store.compare_and_set("leader", "", "a"), "a");
  EXPECT_EQ(store.compare_and_set("leader", "", "b"), "a");
  EXPECT_EQ(store.compare_and_set("leader", "a", "c"), "c");
  EXPECT_EQ(store.get("leader", seconds(0)), "c");
}

TEST(PrefixStore, UsersDoNotMeet) {
  const auto store = std::make_shared<HashStore>();
  const auto first = with_prefix(store, "first"), second = with_prefix(store, "second");
  first->set("key", "1");
  EXPECT_EQ(second->add("key", 5), 5);
  EXPECT_EQ(first->get("key", seconds(0)), "1");
  EXPECT_EQ(store->get("first/key", seconds(0)), "1");
  EXPECT_EQ(first->compare_and_set("key", "1", "2"), "2");
  first->wait({"key"}, seconds(0));
}

}  // namespace
}  // namespace lockstep::comm
