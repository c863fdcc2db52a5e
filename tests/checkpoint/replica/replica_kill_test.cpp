// Replicas between processes, one of which is killed in the middle of an exchange and replaced by
// another one.
#include <signal.h>

#include "checkpoint/replica/replica.h"
#include "comm/shm/factory.h"
#include "tests/checkpoint/replica/replica_helpers.h"
#include "tests/support/fork_store.h"

namespace lockstep::checkpoint {
namespace {

std::unique_ptr<comm::ProcessGroup> join(const std::shared_ptr<comm::Store>& store,
                                         const std::string& name, int rank, int ranks,
                                         const std::shared_ptr<Death>& death) {
  const comm::GroupOptions options{.timeout = std::chrono::seconds(90)};
  auto backend = comm::make_shm(comm::with_prefix(store, name), rank, ranks, options);
  return std::make_unique<comm::ProcessGroup>(
      std::make_unique<MortalBackend>(std::move(backend), death), options);
}

class KilledAtCall : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Calls, KilledAtCall, ::testing::Values(0, 1, 2, 3, 4));

TEST_P(KilledAtCall, TheProcessThatTakesItsPlaceGetsItsState) {
  constexpr int kRanks = 3, kVictim = 1, kSpare = kRanks;
  const std::shared_ptr<comm::Store> meeting = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(kRanks + 1, [&](int process) {
    const int rank = process == kSpare ? kVictim : process;
    const auto death = std::make_shared<Death>();
    ReplicaStore store;
    const auto entries = state(Held::slices, rank, kRanks, 1);
    if (process != kSpare) {
      const auto group = join(meeting, "first", rank, kRanks, death);
      store.prepare(entries, *group);
      store.store(1, entries);
      if (rank == kVictim) {
        death->kill = [] { ::raise(SIGKILL); };
        death->calls_left = GetParam();
      }
      store.start(2, state(Held::slices, rank, kRanks, 2));
      if (rank == kVictim) {
        store.wait();
        ADD_FAILURE() << "an exchange has fewer calls than that";
      }
      // The others' training would fail now; the exchange may still be on its way.
      EXPECT_THAT(error_of([&] { group->barrier().wait(); }),
                  ::testing::HasSubstr(str("rank ", kVictim, " (pid ")));
    }
    overwrite(entries);
    const auto group = join(meeting, "second", rank, kRanks, death);
    const Back restored = restore(store, entries, *group);
    // Two calls for the sums, two for the data, one for the vote; once its own data are through,
    // whether those of the others still are depends on who is faster, until all have come to the
    // vote.
    if (GetParam() < 3) {
      EXPECT_EQ(restored.step, 1);
    } else if (GetParam() == 4) {
      EXPECT_EQ(restored.step, 2);
    }
    EXPECT_THAT(restored.from_others, ::testing::ElementsAre(kVictim));
    expect_equal(entries, state(Held::slices, rank, kRanks, restored.step));
  });
  for (size_t process = 0; process < ends.size(); ++process) {
    if (process == kVictim) {
      EXPECT_EQ(ends[process].signal, SIGKILL);
    } else {
      test::expect_well(ends[process], process);
    }
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
