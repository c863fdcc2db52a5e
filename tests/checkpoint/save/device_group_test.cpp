// Checkpoints of ranks whose group is on a device: votes, plans and texts go through its host
// group.
#include "tests/support/device_group.h"

#include "checkpoint/save/saver.h"
#include "tests/checkpoint/helpers.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {
namespace {

std::vector<Entry> slices(const comm::ProcessGroup& group, bool filled) {
  const int64_t n = 900, begin = n * group.rank() / group.size(),
                end = n * (group.rank() + 1) / group.size();
  const Tensor part = filled ? counting({end - begin}, DType::f32, begin)
                             : Tensor::zeros({end - begin}, DType::f32);
  return {Entry("w", part, ShardSpec{{30, 30}, begin, end - begin})};
}

TEST(DeviceGroup, SavesAndRestoresWithoutACallOnTheDevice) {
  const test::TempDir dir;
  test::run_device_group(3, [&](const std::shared_ptr<comm::ProcessGroup>& group) {
    const auto entries = slices(*group, true);
    save({.dir = dir.path(), .step = 1, .entries = entries, .group = group.get()});
    Saver saver({.dir = dir.path(), .group = group.get()});
    saver.prepare(entries);
    saver.start(2, entries, {});
    const auto outcome = saver.wait();
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->error, "");
    const auto back = slices(*group, false);
    const Restored restored = restore_latest(dir.path(), back, group.get());
    ASSERT_TRUE(restored.checkpoint);
    EXPECT_EQ(restored.checkpoint->step(), 2);
    EXPECT_EQ(bytes_of(back[0].tensor), bytes_of(entries[0].tensor));
  });
}

}  // namespace
}  // namespace lockstep::checkpoint
