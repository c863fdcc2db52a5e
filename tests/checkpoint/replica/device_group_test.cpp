// Replicas of ranks whose group is on a device: copies lie on the host, so they go through its host
// group.
#include "tests/support/device_group.h"

#include "checkpoint/replica/replica.h"
#include "tests/checkpoint/replica/replica_helpers.h"

namespace lockstep::checkpoint {
namespace {

TEST(DeviceGroup, ReplicasNeedNoCallOnTheDevice) {
  constexpr int kRanks = 3;
  test::run_device_group(kRanks, [](const std::shared_ptr<comm::ProcessGroup>& group) {
    const auto entries = state(Held::slices, group->rank(), kRanks, 1, 1000);
    const auto expected = state(Held::slices, group->rank(), kRanks, 1, 1000);
    ReplicaStore store({.distance = 1});
    store.prepare(entries, *group);
    store.start(1, entries);
    const auto outcome = store.wait();
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->error, "");
    overwrite(entries);
    EXPECT_EQ(restore(store, entries, *group).step, 1);
    expect_equal(entries, expected);
  });
}

}  // namespace
}  // namespace lockstep::checkpoint
