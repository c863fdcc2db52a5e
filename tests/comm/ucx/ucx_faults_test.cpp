// What happens to the others when a process of a ucx group dies, stops, forks, or is cut off.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "comm/process_group.h"
#include "core/base/error.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"
#include "tests/support/two_hosts.h"

namespace lockstep::comm {
namespace {

using test::ForkStore;
using test::RankEnd;
using test::TwoHosts;

constexpr auto kLong = std::chrono::seconds(90);

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

std::string host_name() {
  char name[64] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

void expect_only_victim(const std::vector<RankEnd>& ends, size_t victim) {
  for (size_t r = 0; r < ends.size(); ++r) {
    if (r == victim)
      EXPECT_EQ(ends[r].signal, SIGKILL);
    else
      test::expect_well(ends[r], r);
  }
}

class UcxFaults : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { ::setenv("UCX_TLS", "tcp", 1); }
  std::unique_ptr<ProcessGroup> group(int rank, const GroupOptions& options = {.timeout = kLong}) {
    return create("ucx", store_, rank, GetParam(), options);
  }
  const std::shared_ptr<ForkStore> store_ = std::make_shared<ForkStore>();
};

TEST_P(UcxFaults, ARankKilledInACollectiveIsNamedByTheOthers) {
  const int size = GetParam(), victim = size - 1;
  const auto ends = test::fork_ranks(size, [&](int rank) {
    const auto g = group(rank);
    const Tensor t = Tensor::zeros({1 << 20});
    if (rank == victim) {
      g->all_reduce(t).wait();
      const Work running = g->all_reduce(t);
      ::raise(SIGKILL);
    }
    const std::string message = failure_of([&] {
      while (true) g->all_reduce(t).wait();
    });
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "on " + host_name())) << message;
    EXPECT_TRUE(contains(message, "died")) << message;
    EXPECT_TRUE(contains(message, "all_reduce #")) << message;
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

// Nobody was in a call with it at that moment; the next call does not wait for it.
TEST_P(UcxFaults, ARankKilledBetweenCallsIsNamedByTheNextOne) {
  const int size = GetParam(), victim = 0;
  const auto ends = test::fork_ranks(size, [&](int rank) {
    const auto g = group(rank);
    g->barrier().wait();
    if (rank == victim) ::raise(SIGKILL);
    const std::string message = failure_of([&] {
      while (true) g->barrier().wait();
    });
    EXPECT_TRUE(contains(message, "rank 0 (pid ")) << message;
    EXPECT_TRUE(contains(message, "died")) << message;
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

TEST_P(UcxFaults, AStoppedRankRunsIntoTheTimeLimitAndIsNamed) {
  const int size = GetParam(), victim = size - 1;
  const auto ends = test::fork_ranks(size, [&](int rank) {
    const auto g = group(rank, {.timeout = std::chrono::seconds(4)});
    g->barrier().wait();
    if (rank == victim) {
      store_->set("victim", std::to_string(::getpid()));
      ::raise(SIGSTOP);
    }
    const std::string message = failure_of([&] { g->broadcast(Tensor::zeros({10}), 0).wait(); });
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "is stopped")) << message;
    // Only when all have looked at it may the harness be rid of it.
    store_->set(str("looked-", rank), "yes");
    if (rank != 0) return;
    for (int other = 1; other < victim; ++other) store_->get(str("looked-", other), kLong);
    ::kill(std::stoi(store_->get("victim", kLong)), SIGKILL);
  });
  expect_only_victim(ends, static_cast<size_t>(victim));
}

// Memory that a call was given is its owner's again, although a peer stands in the middle of it,
// and goes on later.
TEST_P(UcxFaults, AStoppedRankInTheMiddleOfATransferIsGivenUp) {
  const int size = GetParam(), victim = size - 1;
  test::run_ranks(size, [&](int rank) {
    const auto g = group(rank, {.timeout = std::chrono::seconds(3)});
    g->barrier().wait();
    const int64_t n = (16 << 20) / size;
    const Tensor shard = Tensor::full({n}, 1), t = Tensor::zeros({n * size});
    if (rank == victim) store_->set("victim", std::to_string(::getpid()));
    const int victim_pid = std::stoi(store_->get("victim", kLong));
    const auto gather_until_it_fails = [&] {
      return failure_of([&] {
        while (true) g->all_gather(t, shard).wait();
      });
    };
    const Work first = g->all_gather(t, shard);
    if (rank == victim) {
      EXPECT_NE(gather_until_it_fails(), "");
      store_->set("victim-knows", "yes");
      return;
    }
    if (rank == 0) {
      std::atomic_ref<float> begin(t.data<float>()[victim * n]);
      while (begin.load() != 1 && !first.done()) std::this_thread::yield();
      ::kill(victim_pid, SIGSTOP);
    }
    const std::string message = gather_until_it_fails();
    EXPECT_TRUE(contains(message, str("rank ", victim, " (pid "))) << message;
    t.fill_(-7);
    store_->set(str("given-up-", rank), "yes");
    for (int other = 0; other < victim; ++other) store_->get(str("given-up-", other), kLong);
    if (rank == 0) ::kill(victim_pid, SIGCONT);
    store_->get("victim-knows", kLong);
    for (int64_t i = 0; i < t.numel(); i += 97) ASSERT_EQ(t.data<float>()[i], -7);
  });
}

// A child has neither the threads nor the connections of its parent.
TEST_P(UcxFaults, AForkedChildIsRefusedAndHarmsNothing) {
  test::run_ranks(GetParam(), [&](int rank) {
    auto g = group(rank);
    g->barrier().wait();
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string another = failure_of([&] { group(rank, {.name = "another"}); });
      EXPECT_TRUE(contains(another, "forked")) << another;
      static_cast<void>(g.release());  // its threads are not here
      ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    g->barrier().wait();
    const Tensor t = Tensor::full({1 << 18}, 1);
    g->all_reduce(t).wait();
    EXPECT_EQ(t.data<float>()[5], static_cast<float>(GetParam()));
  });
}

// As a program does that keeps its group until it ends: UCX's own destructors run then.
TEST_P(UcxFaults, ARankThatExitsWithItsGroupHasLeft) {
  const int size = GetParam(), leaver = size - 1;
  test::run_ranks(size, [&](int rank) {
    auto g = group(rank);
    g->barrier().wait();
    if (rank == leaver) {
      static_cast<void>(g.release());
      std::exit(0);
    }
    const std::string message = failure_of([&] { g->barrier().wait(); });
    EXPECT_TRUE(contains(message, str("rank ", leaver, " (pid "))) << message;
    EXPECT_TRUE(contains(message, "left the group")) << message;
  });
}

INSTANTIATE_TEST_SUITE_P(ranks, UcxFaults, testing::Values(2, 4));

class UcxHosts : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("UCX_TLS", "tcp", 1);
    if (!hosts_.made()) GTEST_SKIP() << TwoHosts::kSkipped;
  }
  const TwoHosts hosts_;
  const std::shared_ptr<ForkStore> store_ = std::make_shared<ForkStore>();
};

TEST_F(UcxHosts, AutoTakesShmOnOneHostAndUcxBetweenTwo) {
  test::run_ranks(2, [&](int rank) {
    EXPECT_EQ(create("auto", store_, rank, 2, {.name = "one", .timeout = kLong})->backend_name(),
              "shm");
  });
  test::run_ranks(4, [&](int rank) {
    hosts_.run_on(rank / 2, [&] {
      const auto g = create("auto", store_, rank, 4, {.name = "two", .timeout = kLong});
      EXPECT_EQ(g->backend_name(), "ucx");
      const Tensor t = Tensor::full({1 << 20}, 1);
      g->all_reduce(t).wait();
      EXPECT_EQ(t.data<float>()[7], 4);
    });
  });
  EXPECT_EQ(store_->size(), 0u);
}

// Each side learns it: of a rank on the other host, by its name. Nobody waits for the time limit.
TEST_F(UcxHosts, APartitionIsNamedOnBothSides) {
  test::run_ranks(4, [&](int rank) {
    hosts_.run_on(rank / 2, [&] {
      const auto g = create("ucx", store_, rank, 4, {.timeout = kLong});
      const Tensor t = Tensor::zeros({1 << 20});
      const std::string message = failure_of([&] {
        g->all_reduce(t).wait();
        if (rank == 0) hosts_.cut();
        while (true) g->all_reduce(t).wait();
      });
      EXPECT_TRUE(contains(message, "cannot be reached")) << message;
      EXPECT_TRUE(contains(message, rank < 2 ? " on beta)" : " on alpha)")) << message;
      EXPECT_FALSE(contains(message, "time limit")) << message;
    });
  });
}

TEST_F(UcxHosts, ADeathOnTheOtherHostIsNamed) {
  const auto ends = test::fork_ranks(4, [&](int rank) {
    hosts_.run_on(rank / 2, [&] {
      const auto g = create("ucx", store_, rank, 4, {.timeout = kLong});
      const Tensor t = Tensor::zeros({1 << 20});
      const std::string message = failure_of([&] {
        g->all_reduce(t).wait();
        if (rank == 3) ::_exit(9);
        while (true) g->all_reduce(t).wait();
      });
      EXPECT_TRUE(contains(message, "rank 3 (pid ")) << message;
      EXPECT_TRUE(contains(message, "on beta")) << message;
      EXPECT_TRUE(contains(message, "died")) << message;
    });
  });
  for (size_t r = 0; r < 3; ++r) test::expect_well(ends[r], r);
}

}  // namespace
}  // namespace lockstep::comm
