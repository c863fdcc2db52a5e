// Replicas in memory: whoever is lost gets its state back, and whenever a rank dies, a whole step
// is left.
#include "checkpoint/replica/replica.h"

#include <algorithm>
#include <atomic>
#include <set>

#include "checkpoint/format/chunks.h"
#include "checkpoint/replica/replica_copy.h"
#include "checkpoint/replica/replica_memory.h"
#include "core/ops/functions.h"
#include "tests/checkpoint/helpers.h"
#include "tests/checkpoint/replica/replica_helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

using Meeting = std::shared_ptr<comm::HashStore>;  // where the ranks of one group meet

std::unique_ptr<comm::ProcessGroup> join(const Meeting& meeting, int rank, int ranks,
                                         std::shared_ptr<Death> death = {}) {
  const comm::GroupOptions options;
  auto backend = comm::make_local(meeting, rank, ranks, options);
  if (death) backend = std::make_unique<MortalBackend>(std::move(backend), std::move(death));
  return std::make_unique<comm::ProcessGroup>(std::move(backend), options);
}

// What one of the ranks does, in groups one after another: `meet` forms the next one.
using Meet = std::function<std::unique_ptr<comm::ProcessGroup>()>;
void with_groups(int ranks, const std::function<void(int rank, const Meet& meet)>& body) {
  std::vector<Meeting> meetings(8);
  for (Meeting& meeting : meetings) meeting = std::make_shared<comm::HashStore>();
  test::run_threads(ranks, [&](int rank) {
    size_t next = 0;
    body(rank, [&] { return join(meetings.at(next++), rank, ranks); });
  });
}

// Forms a group and keeps the state of a step in it.
void keep(ReplicaStore& store, const std::vector<Entry>& entries, int64_t step, const Meet& meet) {
  const auto group = meet();
  store.prepare(entries, *group);
  store.store(step, entries);
}

// Stores two steps, loses some ranks, and expects all to get the second one back.
void expect_restored(Held held, int ranks, const std::vector<int>& lost,
                     const ReplicaOptions& options = {}) {
  with_groups(ranks, [&](int rank, const Meet& meet) {
    auto store = std::make_unique<ReplicaStore>(options);
    auto entries = state(held, rank, ranks, 1);
    {
      const auto group = meet();
      store->prepare(entries, *group);
      store->store(1, entries);
      entries = state(held, rank, ranks, 2);
      store->store(2, entries);
    }
    if (std::find(lost.begin(), lost.end(), rank) != lost.end())
      store = std::make_unique<ReplicaStore>(options);
    overwrite(entries);
    const auto group = meet();
    const Back restored = restore(*store, entries, *group);
    EXPECT_EQ(restored.step, 2);
    EXPECT_THAT(restored.from_others, ElementsAreArray(lost));
    EXPECT_TRUE(restored.notes.empty());
    expect_equal(entries, state(held, rank, ranks, 2));
  });
}

class Replicas : public ::testing::TestWithParam<std::tuple<int, Held>> {
 protected:
  const int ranks_ = std::get<0>(GetParam());
  const Held held_ = std::get<1>(GetParam());

  void expect_restored(const std::vector<int>& lost, const ReplicaOptions& options = {}) {
    checkpoint::expect_restored(held_, ranks_, lost, options);
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, Replicas,
                         ::testing::Combine(::testing::Values(2, 3, 4, 8),
                                            ::testing::Values(Held::whole, Held::slices,
                                                              Held::boxes)),
                         [](const auto& param) {
                           return str(std::get<0>(param.param),
                                      std::get<1>(param.param) == Held::whole    ? "whole"
                                      : std::get<1>(param.param) == Held::slices ? "slices"
                                                                                 : "boxes");
                         });

TEST_P(Replicas, EveryLostRankComesBack) {
  for (int lost = 0; lost < ranks_; ++lost) expect_restored({lost});
}

TEST_P(Replicas, NobodyLostIsRolledBack) { expect_restored({}); }

TEST_P(Replicas, SeveralComeBackThatAreNotNeighbours) {
  std::vector<int> lost;
  for (int rank = 1; rank < ranks_; rank += 2) lost.push_back(rank);
  expect_restored(lost);
}

TEST_P(Replicas, AfterOneRestoreTheNextLossFindsAllCopiesInPlace) {
  with_groups(ranks_, [&](int rank, const Meet& meet) {
    auto store = std::make_unique<ReplicaStore>();
    auto entries = state(held_, rank, ranks_, 5, 1000);
    keep(*store, entries, 5, meet);
    for (const int lost : {1, 0}) {  // the buddy that was lost first must be able to give, and the
                                     // one that gave to be given
      if (rank == lost) store = std::make_unique<ReplicaStore>();
      overwrite(entries);
      const auto group = meet();
      EXPECT_EQ(restore(*store, entries, *group).step, 5);
      expect_equal(entries, state(held_, rank, ranks_, 5, 1000));
    }
  });
}

TEST_P(Replicas, ARankAndItsBuddyLostIsTold) {
  with_groups(ranks_, [&](int rank, const Meet& meet) {
    auto store = std::make_unique<ReplicaStore>();
    auto entries = state(held_, rank, ranks_, 5, 1000);
    keep(*store, entries, 5, meet);
    if (rank < 2) store = std::make_unique<ReplicaStore>();
    overwrite(entries);
    const auto before = bytes_of(entries[0].tensor);
    const auto group = meet();
    const Back none = restore(*store, entries, *group);
    EXPECT_EQ(none.step, -1);
    EXPECT_EQ(none.why_none,
              ranks_ == 2 ? "no rank holds a copy" : "of step 5, the part of rank 0 is nowhere");
    EXPECT_EQ(bytes_of(entries[0].tensor), before);
  });
}

TEST(Replica, ALostHostComesBackWhereTheDistanceIsItsRanks) {
  for (const int ranks : {4, 8}) {
    std::vector<int> host;
    for (int rank = ranks / 2; rank < ranks; ++rank) host.push_back(rank);
    expect_restored(Held::slices, ranks, host, {.distance = ranks / 2});
  }
}

TEST(Replica, BuddiesAreOnOtherNodesWhereThatIsPossible) {
  const auto distance = [](const std::vector<int>& node_of) {
    const BuddyDistance found = buddy_distance(node_of);
    return std::pair(found.distance, found.covers_nodes);
  };
  EXPECT_EQ(distance({0}), std::pair(0, false));
  // What one node has stays or goes as a whole.
  EXPECT_EQ(distance({0, 0, 0, 0}), std::pair(0, false));
  EXPECT_EQ(distance({0, 1}), std::pair(1, true));
  EXPECT_EQ(distance({0, 0, 1, 1}), std::pair(2, true));
  EXPECT_EQ(distance({0, 0, 1, 1, 2, 2}), std::pair(2, true));
  EXPECT_EQ(distance({0, 0, 0, 1, 1, 2}), std::pair(3, true));
  // Two ranks cannot both have the third one's.
  EXPECT_EQ(distance({0, 0, 1}), std::pair(2, false));
}

TEST_P(Replicas, TakeFourTimesTheirPartAndNoMoreAndHalfOfThatWithoutBuddies) {
  const auto buffers = [] {
    return allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::buffers)];
  };
  int64_t whole = 0;
  for (const Entry& entry : state(Held::whole, 0, 1, 0)) whole += entry.tensor.bytes();
  const int64_t before = buffers();
  with_groups(ranks_, [&](int rank, const Meet& meet) {
    const auto group = meet();
    for (const int distance : {1, 0}) {
      {
        ReplicaStore store({.distance = distance});
        const auto entries = state(held_, rank, ranks_, 1);
        store.prepare(entries, *group);
        // Any of a rank's copies may become its own or its guest's. Of whole tensors one rank has
        // nearly all, and so has its buddy then.
        const int64_t times = distance == 0 ? 2 : held_ == Held::whole ? 8 : 4;
        for (int64_t step = 1; step <= 3; ++step) {
          store.store(step, entries);
          group->barrier().wait();
          // All ranks are threads of this process.
          EXPECT_GE(buffers() - before, (distance == 0 ? 2 : 4) * whole);
          EXPECT_LE(buffers() - before, times * whole + ranks_ * 64000);  // pages
          group->barrier().wait();
        }
      }
      group->barrier().wait();
      EXPECT_EQ(buffers(), before);
      group->barrier().wait();
    }
  });
}

// One rank dies at its n-th call; all others must end up with one whole step, for each n until the
// body survives. `act`: what all do in the group in which that rank dies; its errors are the test's
// own doing.
struct Mortality {
  std::set<int64_t> steps;  // that were restored
  int deaths = 0;
};
Mortality die_everywhere(
    int ranks, int dying,
    const std::function<void(ReplicaStore&, const std::vector<Entry>&, comm::ProcessGroup&)>& act) {
  Mortality seen;
  for (int64_t calls = 0;; ++calls) {
    std::vector<Meeting> meetings(3);
    for (Meeting& meeting : meetings) meeting = std::make_shared<comm::HashStore>();
    std::atomic<bool> died = false;
    std::vector<int64_t> steps(static_cast<size_t>(ranks));
    test::run_threads(ranks, [&](int rank) {
      auto store = std::make_unique<ReplicaStore>();
      auto entries = state(Held::slices, rank, ranks, 1, 1000);
      {
        const auto group = join(meetings[0], rank, ranks);
        store->prepare(entries, *group);
        store->store(0, entries);
        store->store(1, entries);
      }
      {
        const auto death = std::make_shared<Death>();
        const auto group = join(meetings[1], rank, ranks, rank == dying ? death : nullptr);
        store->prepare(entries, *group);
        if (rank == dying) death->calls_left = calls;
        try {
          act(*store, state(Held::slices, rank, ranks, 2, 1000), *group);
        } catch (const EnvironmentError&) {
        }
        if (death->calls_left < 0) {
          died = true;
          store = std::make_unique<ReplicaStore>();
        }
      }
      overwrite(entries);
      const auto group = join(meetings[2], rank, ranks);
      const Back restored = restore(*store, entries, *group);
      steps[static_cast<size_t>(rank)] = restored.step;
      EXPECT_TRUE(restored.notes.empty()) << restored.notes[0];
      expect_equal(entries, state(Held::slices, rank, ranks, restored.step, 1000));
    });
    for (const int64_t step : steps) EXPECT_EQ(step, steps[0]);
    seen.steps.insert(steps[0]);
    if (!died || ::testing::Test::HasFailure()) return seen;
    ++seen.deaths;
  }
}

TEST(Replica, DeathAtAnyCallOfAnExchangeLeavesThisStepOrTheOneBefore) {
  for (const int ranks : {2, 3, 4}) {
    const Mortality seen = die_everywhere(
        ranks, ranks - 1, [](ReplicaStore& store, const std::vector<Entry>& entries, auto&) {
          store.store(2, entries);
        });
    EXPECT_GE(seen.deaths, 5) << "sums, data both ways, vote";
    EXPECT_THAT(seen.steps, ElementsAre(1, 2));
  }
}

TEST(Replica, DeathInTheBackgroundIsToldAndLeavesAWholeStep) {
  const Mortality seen =
      die_everywhere(3, 1, [](ReplicaStore& store, const std::vector<Entry>& entries, auto&) {
        store.start(2, entries);
        const auto outcome = store.wait();
        ASSERT_TRUE(outcome);
        EXPECT_EQ(outcome->step, 2);
        if (!outcome->error.empty()) {
          EXPECT_THAT(outcome->error, HasSubstr("step 2 has no replicas: "));
        }
      });
  EXPECT_THAT(seen.steps, ElementsAre(1, 2));
}

TEST(Replica, DeathAtAnyCallOfARestoreLeavesTheStep) {
  // Rank 3 dies while rank 1 is being restored: by then both may be empty, and their buddies have
  // all.
  for (int64_t calls = 0, died = 1; died != 0; ++calls) {
    std::vector<Meeting> meetings(3);
    for (Meeting& meeting : meetings) meeting = std::make_shared<comm::HashStore>();
    std::atomic<bool> dead = false;
    test::run_threads(4, [&](int rank) {
      auto store = std::make_unique<ReplicaStore>();
      auto entries = state(Held::slices, rank, 4, 7, 1000);
      {
        const auto group = join(meetings[0], rank, 4);
        store->prepare(entries, *group);
        store->store(7, entries);
      }
      if (rank == 1) store = std::make_unique<ReplicaStore>();
      {
        const auto death = std::make_shared<Death>();
        const auto group = join(meetings[1], rank, 4, rank == 3 ? death : nullptr);
        if (rank == 3) death->calls_left = calls;
        overwrite(entries);
        try {
          restore(*store, entries, *group);
        } catch (const EnvironmentError&) {
        }
        if (death->calls_left < 0) {
          dead = true;
          store = std::make_unique<ReplicaStore>();
        }
      }
      overwrite(entries);
      const auto group = join(meetings[2], rank, 4);
      EXPECT_EQ(restore(*store, entries, *group).step, 7) << "died at call " << calls;
      expect_equal(entries, state(Held::slices, rank, 4, 7, 1000));
    });
    died = dead && !HasFailure();
  }
}

TEST(Replica, TheBackgroundSendsTheStateOfTheMomentWhileCollectivesGoOn) {
  with_groups(3, [](int rank, const Meet& meet) {
    const auto group = meet();
    ReplicaStore store;
    auto entries = state(Held::whole, rank, 3, 0);
    store.prepare(entries, *group);
    for (int64_t step = 1; step <= 4; ++step) {
      const auto now = state(Held::whole, rank, 3, step);
      store.start(step, now);
      overwrite(now);
      const Tensor ones = Tensor::full({64}, 1);
      group->all_reduce(ones).wait();
      EXPECT_EQ(ones.data<float>()[63], 3);
    }
    std::vector<int64_t> steps;
    for (auto outcome = store.wait(); outcome; outcome = store.poll()) {
      EXPECT_EQ(outcome->error, "");
      steps.push_back(outcome->step);
    }
    EXPECT_THAT(steps, ElementsAre(1, 2, 3, 4));
    const auto next = meet();
    EXPECT_EQ(restore(store, entries, *next).step, 4);
    expect_equal(entries, state(Held::whole, rank, 3, 4));
  });
}

TEST(Replica, WhatDiffersBetweenRanksFailsOnAllAndTheNextStepWorks) {
  with_groups(3, [](int rank, const Meet& meet) {
    const auto group = meet();
    ReplicaStore store;
    auto entries = state(Held::slices, rank, 3, 1, 1000);
    store.prepare(entries, *group);
    store.store(1, entries);
    EXPECT_THAT(error_of([&] { store.store(rank == 2 ? 3 : 2, entries); }),
                HasSubstr("rank 0 stores step 2 and rank 2 step 3"));
    auto fewer = entries;
    if (rank == 1) fewer.pop_back();
    EXPECT_THAT(error_of([&] { store.store(2, fewer); }),
                AllOf(HasSubstr("step 2 has no replicas: rank 1: "), HasSubstr("not those"),
                      HasSubstr("; rank 2: rank 1 had no copy to send")));
    store.store(4, state(Held::slices, rank, 3, 4, 1000));
    const auto next = meet();
    EXPECT_EQ(restore(store, entries, *next).step, 4);
    expect_equal(entries, state(Held::slices, rank, 3, 4, 1000));
  });
}

TEST(Replica, CopiesOfAnotherStateAreNotedAndNotUsed) {
  with_groups(2, [](int rank, const Meet& meet) {
    ReplicaStore store;
    {
      const auto group = meet();
      const auto entries = state(Held::slices, rank, 2, 1, 1000);
      store.prepare(entries, *group);
      store.store(1, entries);
    }
    const auto group = meet();
    const auto other = state(Held::slices, rank, 2, 1, 1001);
    const Back none = restore(store, other, *group);
    EXPECT_EQ(none.why_none, "no rank holds a copy");
    EXPECT_THAT(none.notes, ElementsAre("rank 0: its copy of step 1, for rank 0 of 2, is of "
                                        "another run, state or number of ranks",
                                        "rank 0: its copy of step 1, for rank 1 of 2, is of "
                                        "another run, state or number of ranks",
                                        "rank 1: its copy of step 1, for rank 1 of 2, is of "
                                        "another run, state or number of ranks",
                                        "rank 1: its copy of step 1, for rank 0 of 2, is of "
                                        "another run, state or number of ranks"));
  });
}

TEST(Replica, WrongUse) {
  with_ranks(2, [](comm::ProcessGroup& group) {
    const auto entries = state(Held::whole, group.rank(), 2, 0, 10);
    EXPECT_THAT(error_of([&] { ReplicaStore({.distance = 2}).prepare(entries, group); }),
                HasSubstr("distance to the buddy is 2"));
    EXPECT_THAT(
        error_of([&] { ReplicaStore({.distance = 1 + 2 * group.rank()}).prepare(entries, group); }),
        HasSubstr("rank 0 has distance 1, identity  and rank 1 has distance 3"));
    EXPECT_THAT(error_of([&] { ReplicaStore().start(1, entries); }),
                HasSubstr("prepare() must come before"));
  });
}

// A changed bit in a copy: the copy's keeper sees it, and so does a receiver, before the values of
// its chunk reach a tensor.
TEST(Replica, AChangedBitIsSeen) {
  with_ranks(2, [](comm::ProcessGroup& group) {
    const std::vector<Entry> entries{Entry("a", counting({3 << 18}, DType::f32))};  // three chunks
    const CopyLayout layout = lay_out_copy(
        {.ranks = 2, .files = {{0, {{"a", DType::f32, entries[0].shard}}}, {1, {}}}}, 0);
    ReplicaMemory memory;
    memory.reserve(2, layout.bytes, layout.bytes);
    const StateCopy copy = memory.view(0, layout.bytes);
    copy.fill(slices_of(entries, layout), layout);
    EXPECT_EQ(copy.first_damaged_chunk(), -1);
    for (const int64_t at : {int64_t{0}, kChunkBytes - 1, kChunkBytes, layout.bytes - 1}) {
      copy.data.data<uint8_t>()[at] ^= 16;
      EXPECT_EQ(copy.first_damaged_chunk(), at / kChunkBytes);
      if (group.rank() == 0) {
        send_copy(group, copy, 1);
      } else {
        overwrite(entries);
        CopyReader reader(entries);
        EXPECT_EQ(receive_copy(group, layout, 0, reader), at / kChunkBytes);
        const float* values = entries[0].tensor.data<float>();
        EXPECT_EQ(std::count(values, values + (3 << 18), -1.0F), (3 - at / kChunkBytes) << 18);
      }
      copy.data.data<uint8_t>()[at] ^= 16;
    }
  });
}

// What a rank would write to two files is one copy, though a tensor is cut between them.
TEST(Replica, ACopyHoldsBothFilesOfARank) {
  const std::vector<Entry> entries{Entry("a", counting({3 << 18})),
                                   Entry("b", counting({5}, DType::u8))};
  const Plan plan = make_plan({parts_of(entries)}, 0);
  ASSERT_EQ(plan.files.size(), 2u);
  const CopyLayout layout = lay_out_copy(plan, 0);
  ASSERT_EQ(layout.parts.size(), 3u);
  ReplicaMemory memory;
  memory.reserve(2, layout.bytes, layout.bytes);
  const StateCopy copy = memory.view(1, layout.bytes);
  copy.fill(slices_of(entries, layout), layout);
  const std::vector<Entry> into{Entry("a", Tensor::zeros({3 << 18})),
                                Entry("b", Tensor::zeros({5}, DType::u8))};
  const Parameter a("a", into[0].tensor);
  const Variable loss = ops::sum(ops::square(a));
  CopyReader reader(into);
  reader.take(layout, 0, copy.data.raw(), copy.data.bytes());
  expect_equal(into, entries);
  EXPECT_THAT(error_of([&] { loss.backward(); }),
              HasSubstr("but restoring a replica changed it since"));
}

// Momentum on slices, whose gradients come from the sum of all: each step depends on every rank's
// bits.
class Training {
 public:
  Training(int rank, int ranks)
      : weights_(counting({37}, DType::f32, 37 * rank)), momentum_(Tensor::zeros({37})) {
    for (const auto& [name, tensor] : {std::pair{"w", weights_}, std::pair{"m", momentum_}})
      entries.emplace_back(name, tensor, ShardSpec{{37 * ranks}, 37 * rank, 37});
  }
  void step(comm::ProcessGroup& group) {
    const Tensor sum = weights_.clone();
    group.all_reduce(sum).wait();
    for (int64_t i = 0; i < 37; ++i) {
      float& m = momentum_.data<float>()[i];
      m = 0.9F * m + 0.01F * sum.data<float>()[36 - i] + 0.001F * weights_.data<float>()[i];
      weights_.data<float>()[i] -= 0.1F * m;
    }
  }
  std::vector<Entry> entries;

 private:
  Tensor weights_, momentum_;
};

class TrainingOn : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TrainingOn, ::testing::Values(2, 3, 4, 8));

TEST_P(TrainingOn, GoesOnWithTheSameBits) {
  const int ranks = GetParam();
  with_groups(ranks, [&](int rank, const Meet& meet) {
    Training undisturbed(rank, ranks);
    auto training = std::make_unique<Training>(rank, ranks);
    auto store = std::make_unique<ReplicaStore>();
    {
      const auto group = meet();
      for (int step = 1; step <= 20; ++step) undisturbed.step(*group);
      store->prepare(training->entries, *group);
      for (int step = 1; step <= 13; ++step) {
        training->step(*group);
        if (step % 4 == 0) store->start(step, training->entries);
      }
      EXPECT_EQ(store->wait()->error, "");
    }
    if (rank == ranks - 1) {  // a new process
      training = std::make_unique<Training>(rank, ranks);
      store = std::make_unique<ReplicaStore>();
    }
    const auto group = meet();
    const int64_t restored = restore(*store, training->entries, *group).step;
    EXPECT_EQ(restored, 12);
    for (int64_t step = restored + 1; step <= 20; ++step) training->step(*group);
    expect_equal(training->entries, undisturbed.entries);
  });
}

}  // namespace
}  // namespace lockstep::checkpoint
