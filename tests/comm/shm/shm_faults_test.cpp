// What happens to the others when a process of a shm group dies, stops, or never comes.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>

#include <dirent.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "comm/process_group.h"
#include "core/base/error.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using test::ForkStore;
using test::RankEnd;

template <typename F>
std::string failure_of(F&& body) {
  try {
    body();
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t open_files() {
  size_t count = 0;
  DIR* dir = ::opendir("/proc/self/fd");
  while (::readdir(dir)) ++count;
  ::closedir(dir);
  return count;
}

// Leaves the place alone at which ranks write.
std::string all_of(std::FILE* file) {
  std::string text(1 << 16, '\0');
  const ssize_t bytes = ::pread(::fileno(file), text.data(), text.size(), 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  return text;
}

size_t count(const std::string& text, const std::string& part) {
  size_t times = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++times;
  return times;
}

// Ranks below `victim` must have done well, and the victim must have ended by SIGKILL.
void expect_only_victim(const std::vector<RankEnd>& ends, size_t victim) {
  for (size_t r = 0; r < ends.size(); ++r) {
    if (r == victim)
      EXPECT_EQ(ends[r].signal, SIGKILL);
    else
      test::expect_well(ends[r], r);
  }
}

class ShmFaults : public testing::TestWithParam<int> {};

TEST_P(ShmFaults, ARankKilledInACollectiveIsNamedByTheOthers) {
  const int size = GetParam(), victim = size - 1;
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  const auto ends = test::fork_ranks(size, [&](int rank) {
    const auto g = create("shm", shared, rank, size, {.timeout = std::chrono::seconds(90)});
    const Tensor t = Tensor::zeros({1 << 20});
    // The victim dies while the others are somewhere in a stream of large calls.
    if (rank == victim) {
      g->all_reduce(t).wait();
      const Work running = g->all_reduce(t);
      ::raise(SIGKILL);
    }
    const std::string message = failure_of([&] {
      while (true) g->all_reduce(t).wait();
    });
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "died")) << message;
    EXPECT_TRUE(contains(message, "all_reduce #")) << message;
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

TEST_P(ShmFaults, AStoppedRankRunsIntoTheTimeLimitAndIsNamed) {
  const int size = GetParam(), victim = size - 1;
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  const auto ends = test::fork_ranks(size, [&](int rank) {
    const auto g = create("shm", shared, rank, size, {.timeout = std::chrono::seconds(4)});
    g->barrier().wait();
    if (rank == victim) {
      shared->set("victim", std::to_string(::getpid()));
      ::raise(SIGSTOP);
    }
    const std::string message = failure_of([&] { g->broadcast(Tensor::zeros({10}), 0).wait(); });
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "is stopped and has not arrived")) << message;
    EXPECT_TRUE(contains(message, "barrier #1")) << message;
    // Only when all have looked at it may the harness be rid of it.
    shared->set(str("looked-", rank), "yes");
    if (rank != 0) return;
    for (int other = 1; other < victim; ++other)
      shared->get(str("looked-", other), std::chrono::seconds(60));
    ::kill(std::stoi(shared->get("victim", std::chrono::seconds(60))), SIGKILL);
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

// Named at once, but only missed at the time limit: it may go on.
TEST_P(ShmFaults, AStoppedRankIsNamedByOneOfTheOthersAndMayGoOn) {
  const int size = GetParam(), victim = size - 1;
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  std::FILE* const said = std::tmpfile();
  const auto ends = test::fork_ranks(size, [&](int rank) {
    ::dup2(::fileno(said), STDERR_FILENO);
    const auto g =
        create("shm", shared, rank, size, {.name = "patient", .timeout = std::chrono::seconds(90)});
    g->barrier().wait();
    if (rank == victim) {
      shared->set("victim", std::to_string(::getpid()));
      ::raise(SIGSTOP);
    }
    const Work work = g->broadcast(Tensor::zeros({10}), 0);
    if (rank == 0) {
      const int pid = std::stoi(shared->get("victim", std::chrono::seconds(60)));
      for (const Deadline limit = Deadline::after(std::chrono::seconds(60));
           !limit.passed() && ::lseek(::fileno(said), 0, SEEK_END) == 0;)
        std::this_thread::yield();
      ::kill(pid, SIGCONT);
    }
    work.wait();
  });
  for (int r = 0; r < size; ++r)
    test::expect_well(ends[static_cast<size_t>(r)], static_cast<size_t>(r));
  const std::string text = all_of(said);
  std::fclose(said);
  EXPECT_TRUE(contains(text, str("rank ", victim, " (pid "))) << text;
  EXPECT_TRUE(contains(text, "is stopped and holds up broadcast #2")) << text;
  EXPECT_TRUE(contains(text, "in group 'patient'; its last call was barrier #1")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
}

// A collective and a message wait for the same rank, and look at it several times.
TEST(ShmStopped, IsSaidOnceWhateverWaitsForTheRank) {
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  std::FILE* const said = std::tmpfile();
  const auto ends = test::fork_ranks(2, [&](int rank) {
    ::dup2(::fileno(said), STDERR_FILENO);
    const auto g = create("shm", shared, rank, 2, {.timeout = std::chrono::seconds(4)});
    g->barrier().wait();
    if (rank == 1) {
      shared->set("victim", std::to_string(::getpid()));
      ::raise(SIGSTOP);
    }
    const Tensor a = Tensor::zeros({10}), b = Tensor::zeros({10});
    const Work message = g->recv(a, 1), collective = g->broadcast(b, 1);
    EXPECT_NE(failure_of([&] { message.wait(); }), "");
    EXPECT_NE(failure_of([&] { collective.wait(); }), "");
    ::kill(std::stoi(shared->get("victim", std::chrono::seconds(60))), SIGKILL);
  });
  expect_only_victim(ends, 1);
  const std::string text = all_of(said);
  std::fclose(said);
  EXPECT_EQ(count(text, "is stopped and holds up"), 1u) << text;
}

// Also where the calls that it holds up have the same number: a collective first, then a message.
TEST(ShmStopped, ASecondStopIsSaidToo) {
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  std::FILE* const said = std::tmpfile();
  test::run_ranks(2, [&](int rank) {
    const auto g = create("shm", shared, rank, 2, {.timeout = std::chrono::seconds(90)});
    const Tensor t = Tensor::zeros({10});
    if (rank == 1) {
      shared->set("victim", std::to_string(::getpid()));
      g->barrier().wait();
      g->send(t, 0).wait();
      ::raise(SIGSTOP);
      g->broadcast(t, 1).wait();
      ::raise(SIGSTOP);
      g->send(t, 0).wait();
      return;
    }
    ::dup2(::fileno(said), STDERR_FILENO);
    g->barrier().wait();
    g->recv(t, 1).wait();
    const int pid = std::stoi(shared->get("victim", std::chrono::seconds(60)));
    const auto go_on_once_said = [&](const Work& held_up, size_t times) {
      for (const Deadline limit = Deadline::after(std::chrono::seconds(30));
           !limit.passed() && count(all_of(said), "holds up") < times;)
        std::this_thread::yield();
      ::kill(pid, SIGCONT);
      held_up.wait();
    };
    go_on_once_said(g->broadcast(t, 1), 1);
    go_on_once_said(g->recv(t, 1), 2);
  });
  const std::string text = all_of(said);
  std::fclose(said);
  EXPECT_TRUE(contains(text, "holds up broadcast #2")) << text;
  EXPECT_TRUE(contains(text, "holds up send #2")) << text;
}

TEST_P(ShmFaults, ARankThatNeverJoinsIsNamed) {
  const int size = GetParam();
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(size - 1, [&](int rank) {
    const std::string message = failure_of(
        [&] { create("shm", shared, rank, size, {.timeout = std::chrono::milliseconds(500)}); });
    EXPECT_TRUE(contains(message, str("rank ", size - 1)) ||
                (rank > 0 && contains(message, "rank 0")))
        << message;
  });
}

// Of the launcher's kind: it knows that the last rank has failed, and ends waits for the others'
// arrival.
class StoreThatKnows final : public Store {
 public:
  explicit StoreThatKnows(ForkStore& store) : store_(store) {}
  void set(const std::string& key, const std::string& value) override { store_.set(key, value); }
  std::string get(const std::string& key, Duration timeout) override {
    return store_.get(key, timeout);
  }
  void wait(const std::vector<std::string>&, Duration) override {
    throw EnvironmentError("the last rank has failed");
  }
  int64_t add(const std::string& key, int64_t delta) override { return store_.add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_.compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_.remove(keys); }

 private:
  ForkStore& store_;
};

TEST_P(ShmFaults, AFailureOfWhichTheStoreKnowsEndsTheWaitForARank) {
  ForkStore store;
  const auto shared = std::make_shared<StoreThatKnows>(store);
  test::run_ranks(GetParam() - 1, [&](int rank) {
    const std::string message = failure_of(
        [&] { create("shm", shared, rank, GetParam(), {.timeout = std::chrono::seconds(3)}); });
    EXPECT_TRUE(contains(message, "the last rank has failed") ||
                (rank > 0 && contains(message, "ended")))
        << message;
  });
}

// What the missing rank does is half of the answer.
TEST(ShmLate, TheErrorSaysWhatTheMissingRankDoes) {
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(2, [&](int rank) {
    const auto control =
        create("shm", shared, rank, 2, {.name = "control", .timeout = std::chrono::seconds(90)});
    const auto late_at = [&](const std::string& name, int limit_s,
                             const std::function<void()>& meanwhile) {
      const auto g =
          create("shm", shared, rank, 2, {.name = name, .timeout = std::chrono::seconds(limit_s)});
      std::string message;
      control->barrier().wait();
      if (rank == 0) {
        message = failure_of([&] { g->barrier().wait(); });
        shared->set("late at " + name, "yes");
      } else {
        meanwhile();
      }
      control->barrier().wait();
      return message;
    };
    const std::string computing = late_at("one", 1, [&] {
      for (uint64_t i = 0;; ++i) {
        if (i % (1 << 24) != 0) continue;
        try {
          shared->get("late at one", Duration::zero());
          return;
        } catch (const TimeoutError&) {
        }
      }
    });
    // Until the group called 'other' has ended, of which rank 0 does not know.
    const auto other =
        create("shm", shared, rank, 2, {.name = "other", .timeout = std::chrono::seconds(90)});
    const std::string elsewhere = late_at("two", 6, [&] {
      std::thread release([&] {
        shared->get("late at two", std::chrono::seconds(90));
        other->abort("enough");
      });
      failure_of([&] { other->broadcast(Tensor::zeros({10}), 0).wait(); });
      release.join();
    });
    if (rank == 1) return;
    EXPECT_TRUE(contains(computing, "is computing and has not arrived")) << computing;
    EXPECT_TRUE(contains(elsewhere, "waits in broadcast #1")) << elsewhere;
    EXPECT_TRUE(contains(elsewhere, "in group 'other' on rank 1 of 2 and has not arrived"))
        << elsewhere;
  });
}

// Dies where the others wait for it to join.
class StoreOfTheDying final : public Store {
 public:
  // `arrival`: the one, counted over groups, at which this process dies, before it says that it is
  // here or after; 0: it does not.
  StoreOfTheDying(ForkStore& store, int arrival, bool before)
      : store_(store), arrival_(arrival), before_(before) {}
  void set(const std::string& key, const std::string& value) override {
    const bool dies = contains(key, "attached-") && ++seen_ == arrival_;
    if (dies && before_) ::raise(SIGKILL);
    store_.set(key, value);
    if (dies) ::raise(SIGKILL);
  }
  std::string get(const std::string& key, Duration timeout) override {
    return store_.get(key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
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
  const int arrival_;
  const bool before_;
  int seen_ = 0;
};

void expect_named_when_dying(bool in_split, bool before, int victim) {
  ForkStore store;
  const auto ends = test::fork_ranks(4, [&](int rank) {
    const auto own =
        std::make_shared<StoreOfTheDying>(store, rank == victim ? (in_split ? 2 : 1) : 0, before);
    const std::string message = failure_of([&] {
      const auto g = create("shm", own, rank, 4, {.timeout = std::chrono::seconds(95)});
      if (in_split) g->split(0, rank);
    });
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "died")) << message;
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

TEST(ShmDeath, WhileAGroupFormsIsNoticedAtOnce) {
  for (const int victim : {0, 2}) expect_named_when_dying(false, false, victim);
}

TEST(ShmDeath, WhileAGroupSplitsIsNoticedAtOnce) {
  for (const int victim : {0, 2})
    for (const bool before : {true, false}) expect_named_when_dying(true, before, victim);
}

// A process may end while the others still look around in the new group; it once counted as dead
// then.
TEST_P(ShmFaults, ARankThatIsDoneAtOnceHasLeft) {
  for (int i = 0; i < 20; ++i) {
    ForkStore store;
    const std::shared_ptr<Store> shared(&store, [](Store*) {});
    test::run_ranks(2 * GetParam(), [&](int rank) { create("shm", shared, rank, 2 * GetParam()); });
  }
}

TEST(ShmCreate, ARankZeroThatNeverComesIsNamed) {
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  const std::string message =
      failure_of([&] { create("shm", shared, 1, 2, {.timeout = std::chrono::milliseconds(20)}); });
  EXPECT_TRUE(contains(message, "rank 0 of 2 did not join")) << message;
}

TEST_P(ShmFaults, NothingIsLeftOpen) {
  const int size = GetParam();
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(size, [&](int rank) {
    const size_t before = open_files();
    for (int i = 0; i < 5; ++i) {
      const auto g = create("shm", shared, rank, size);
      const Tensor t = g->allocate({1000}, DType::f32);
      g->all_reduce(t).wait();
      const auto part = g->split(rank % 2, 0);
      part->barrier().wait();
    }
    EXPECT_EQ(open_files(), before);
  });
}

TEST_P(ShmFaults, SharedTensorsOutliveTheGroupAndCanBeFreedBetweenCalls) {
  const int size = GetParam();
  ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(size, [&](int rank) {
    auto g = create("shm", shared, rank, size);
    Tensor kept;
    for (int i = 0; i < 20; ++i) {
      const Tensor t = g->allocate({5000}, DType::i32);
      t.fill_(i);
      g->all_reduce(t).wait();
      EXPECT_EQ(t.data<int32_t>()[4999], i * size);
      if (i == 10) kept = t;
    }
    g.reset();
    EXPECT_EQ(kept.data<int32_t>()[0], 10 * size);
  });
}

INSTANTIATE_TEST_SUITE_P(shm, ShmFaults, testing::Values(2, 4),
                         [](const auto& param) { return "ranks_" + std::to_string(param.param); });

TEST(Create, SaysWhichBackendsExist) {
  try {
    create("smoke_signals", nullptr, 0, 1);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_TRUE(contains(e.what(), "auto, local, shm")) << e.what();
  }
  EXPECT_THROW(create("shm", nullptr, 0, 2), UsageError);
  EXPECT_THROW(create("shm", nullptr, 2, 2), UsageError);
  EXPECT_EQ(create("auto", nullptr, 0, 1)->size(), 1);
}

}  // namespace
}  // namespace lockstep::comm
