// What the ranks of a run tell each other about the host, where their group is on a device.
#include "tests/support/device_group.h"

#include <gmock/gmock.h>

#include "core/optim/clip.h"
#include "tests/support/error_of.h"
#include "train/bench/measure.h"
#include "train/data/data_identity.h"
#include "train/metrics/memory_report.h"
#include "train/run/leaf_sums.h"
#include "train/run/same_config.h"

namespace lockstep::train {
namespace {

using test::run_device_group;
using Group = std::shared_ptr<comm::ProcessGroup>;

Config config_with_steps(int steps) {
  return parse_config(str("data: {kind: random}\n"
                          "model: {kind: mlp, layers: 1, dim: 6, block: 5, vocab: 3}\n"
                          "train: {steps: ",
                          steps, ", global_batch: 4, micro_batch: 2}\n"),
                      "test", {});
}

TEST(DeviceGroup, LossesAndFlagsGoThroughTheHost) {
  run_device_group(3, [](const Group& group) {
    const std::vector<Leaf> mine{{group->rank(), static_cast<float>(group->rank() + 1)}};
    LeafSum losses(mine, 3, {.stop = group->rank() == 1}, *group);
    EXPECT_EQ(losses.sum(), 6.0f);
    EXPECT_TRUE(losses.flags().stop);
    EXPECT_FALSE(losses.flags().save);
  });
}

TEST(DeviceGroup, NormsGoThroughTheHost) {
  run_device_group(2, [](const Group& group) {
    const std::vector<int64_t> numels{1, 1};
    optim::NormBlocks blocks(numels);
    blocks.set(static_cast<size_t>(group->rank()), Tensor::full({1}, group->rank() == 0 ? 3 : 4));
    group->host().all_reduce(blocks.bits(), {.op = comm::ReduceOp::bor}).wait();
    EXPECT_EQ(blocks.norm(), 5.0);
  });
}

TEST(DeviceGroup, ConfigsAreComparedOnTheHost) {
  run_device_group(3, [](const Group& group) {
    check_same_config(config_with_steps(4), *group);
    EXPECT_THAT(test::error_of([&] {
                  check_same_config(config_with_steps(group->rank() == 2 ? 5 : 4), *group);
                }),
                testing::HasSubstr("'train.steps' is 4 on rank 0 and 5 on rank 2"));
  });
}

TEST(DeviceGroup, ReportsGoThroughTheHost) {
  run_device_group(2, [](const Group& group) {
    EXPECT_EQ(slowest(group->rank(), *group), 1.0);
    MemoryBound bound{};
    bound.fill(kUnplanned);
    EXPECT_GE(report_memory(bound, kCpu, *group).peak_bytes, 0);
  });
}

TEST(DeviceGroup, DataAreComparedOnTheHost) {
  run_device_group(2, [](const Group& group) {
    const auto data = open_dataset(config_with_steps(4));
    DataIdentity identity(*data, group);
    EXPECT_TRUE(identity.read_within(std::chrono::seconds(60)));
    EXPECT_NE(identity.text(), "");
    EXPECT_EQ(identity.compare(identity.noted()).same, SameData::yes);
  });
}

}  // namespace
}  // namespace lockstep::train
