// What the others see where a rank of a shm group stops, or cannot go on, while the group forms.
#include <functional>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "comm/shm/group.h"
#include "core/base/error.h"
#include "tests/support/error_of.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using test::error_of;
using test::ForkStore;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Does something when this rank has said that it is here, or before it waits until all have.
class StoreWithHooks final : public Store {
 public:
  StoreWithHooks(ForkStore& store, std::function<void()> announced, std::function<void()> waits)
      : store_(store), announced_(std::move(announced)), waits_(std::move(waits)) {}
  void set(const std::string& key, const std::string& value) override {
    store_.set(key, value);
    if (contains(key, "attached-") && announced_) announced_();
  }
  std::string get(const std::string& key, Duration timeout) override {
    return store_.get(key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    if (waits_) waits_();
    store_.wait(keys, timeout);
  }
  int64_t add(const std::string& key, int64_t delta) override { return store_.add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_.compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_.remove(keys); }

 private:
  ForkStore& store_;
  std::function<void()> announced_, waits_;
};

// The group itself, as its creators give one second to nobody.
TEST(ShmFormation, AStoppedRankIsNotWaitedForAsOneThatComputes) {
  for (const int victim : {0, 2}) {
    ForkStore store;
    const auto ends = test::fork_ranks(3, [&](int rank) {
      StoreWithHooks own(store,
                         [&] {
                           if (rank != victim) return;
                           store.set("victim", std::to_string(::getpid()));
                           ::raise(SIGSTOP);
                         },
                         {});
      const Limit limit(Patience(hours(1), seconds(1)));
      const std::string message = error_of([&] { shm::Group(own, rank, 3, "forming", limit, {}); });
      const std::string pid = store.get("victim", seconds(60));
      EXPECT_TRUE(contains(message, str("rank ", victim))) << message;
      EXPECT_TRUE(
          contains(message, "did not join in time (limit of 1 s for a stopped rank reached)"))
          << message;
      EXPECT_TRUE(contains(message, str("rank ", victim, " (pid ", pid, ") is stopped")))
          << message;
      // Only when both have looked at it may the harness be rid of it.
      store.set(str("looked-", rank), "yes");
      if (rank != 1) return;
      store.get(str("looked-", victim == 0 ? 2 : 0), seconds(60));
      ::kill(std::stoi(pid), SIGKILL);
    });
    for (size_t r = 0; r < ends.size(); ++r) {
      if (static_cast<int>(r) == victim)
        EXPECT_EQ(ends[r].signal, SIGKILL);
      else
        test::expect_well(ends[r], r);
    }
  }
}

// No descriptor is left to watch the others by. This rank lives on, so only it can tell them.
TEST(ShmFormation, ARankThatCannotWatchTheOthersTellsThem) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer looks at memory through a pipe, for which no descriptor is left";
#endif
  ForkStore store;
  test::run_ranks(3, [&](int rank) {
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    const auto run_out = [&] {
      const int next = ::dup(STDERR_FILENO);
      ::close(next);
      const rlimit none{.rlim_cur = static_cast<rlim_t>(next), .rlim_max = before.rlim_max};
      ::setrlimit(RLIMIT_NOFILE, &none);
    };
    const auto own = std::make_shared<StoreWithHooks>(
        store, std::function<void()>(), rank == 1 ? std::function<void()>(run_out) : nullptr);
    const std::string message = error_of([&] {
      const auto g = create("shm", own, rank, 3, {.timeout = hours(1)});
      g->barrier().wait();
    });
    ::setrlimit(RLIMIT_NOFILE, &before);
    if (rank == 1) {
      EXPECT_TRUE(contains(message, "cannot watch rank 0")) << message;
      for (const int other : {0, 2}) store.get(str("looked-", other), seconds(90));
    } else {
      EXPECT_TRUE(contains(message, "rank 1 (pid ")) << message;
      EXPECT_TRUE(contains(message, "left")) << message;
      store.set(str("looked-", rank), "yes");
    }
  });
}

// It lives on and has not left its group, but comes to no split.
TEST(ShmFormation, ASplitDoesNotWaitForARankThatFailedInIt) {
  ForkStore store;
  test::run_ranks(3, [&](int rank) {
    int groups = 0;
    const auto fail_in_split = [&] {
      if (rank == 1 && ++groups == 2) throw EnvironmentError("the store is full");
    };
    const auto own = std::make_shared<StoreWithHooks>(store, fail_in_split, nullptr);
    const auto g = create("shm", own, rank, 3, {.timeout = hours(1)});
    const std::string message = error_of([&] { g->split(0, rank); });
    EXPECT_TRUE(contains(message, "the store is full")) << message;
    store.set(str("looked-", rank), "yes");
    for (int other = 0; other < 3; ++other) store.get(str("looked-", other), seconds(90));
  });
}

// In a call of a group that has formed.
TEST(ShmStopped, ARankIsNotWaitedForAsOneThatComputes) {
  ForkStore store;
  const auto ends = test::fork_ranks(2, [&](int rank) {
    shm::Group group(store, rank, 2, "calling", Deadline::after(seconds(60)), {});
    if (rank == 1) {
      store.set("victim", std::to_string(::getpid()));
      ::raise(SIGSTOP);
      return;
    }
    const int pid = std::stoi(store.get("victim", seconds(60)));
    GivenUp given_up;
    Call call;
    call.limit = Limit("the test's call", Patience(hours(1), seconds(1)), given_up, 1);
    shm::Word& never = group.member(1).staged;
    const std::string message = error_of([&] { group.await(never, never.value + 1, 1, call); });
    EXPECT_TRUE(contains(message, "limit of 1 s for a stopped rank reached: ")) << message;
    EXPECT_TRUE(contains(message, str("rank 1 (pid ", pid))) << message;
    ::kill(pid, SIGKILL);
  });
  test::expect_well(ends[0], 0);
}

// Counts what a rank asks for while it waits.
class StoreThatCounts final : public Store {
 public:
  int gets = 0, waits = 0;

  void set(const std::string& key, const std::string& value) override { store_.set(key, value); }
  std::string get(const std::string& key, Duration timeout) override {
    ++gets;
    return store_.get(key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    ++waits;
    store_.wait(keys, timeout);
  }
  int64_t add(const std::string& key, int64_t delta) override { return store_.add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_.compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_.remove(keys); }

 private:
  HashStore store_;
};

// With many ranks, asking for each of them at each look would keep the store of all ranks busy.
TEST(ShmFormation, ALookAtMissingRanksAsksForAFewOfThem) {
  constexpr int kRanks = 64;
  const auto store = std::make_shared<StoreThatCounts>();
  const std::string message = error_of(
      [&] { create("shm", store, 0, kRanks, {.timeout = std::chrono::milliseconds(900)}); });
  EXPECT_TRUE(contains(message, "ranks 1 to 63 of 64 did not join")) << message;
  // One look a wait; the error at the end asks for all.
  EXPECT_LE(store->gets, 9 * store->waits + kRanks);
}

TEST(ShmFormation, WhoComesAfterRankZeroGaveUpLearnsWhomItMissed) {
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(2, [&](int rank) {
    if (rank == 1) store.get("given up", seconds(60));
    const std::string message = error_of([&] {
      create("shm", shared, rank, 2,
             {.timeout = std::chrono::milliseconds(rank == 0 ? 20 : 50'000)});
    });
    if (rank == 0) {
      store.set("given up", std::to_string(::getpid()));
      store.get("looked", seconds(60));
      return;
    }
    EXPECT_TRUE(contains(message, str("rank 1 cannot join the group of rank 0 (pid ",
                                      store.get("given up", seconds(60)))))
        << message;
    EXPECT_TRUE(contains(message, "has given up its shared memory")) << message;
    store.set("looked", "yes");
  });
}

}  // namespace
}  // namespace lockstep::comm
