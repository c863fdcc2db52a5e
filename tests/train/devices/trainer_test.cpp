// A Trainer whose group is on a CUDA device, and what feeds it. Ranks are threads.
#include "train/run/trainer.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/parallel.h"
#include "tests/support/devices.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"
#include "train/metrics/machine.h"

namespace lockstep::train {
namespace {

using test::cuda_devices, test::device_of;
using testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = test::simulate_devices(2);

Config small_gpt(const std::vector<std::string>& overrides = {}) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: gpt, layers: 1, heads: 2, dim: 8, block: 6, vocab: 16, dropout: 0.1}\n"
      "train: {steps: 4, global_batch: 8, micro_batch: 2, eval_batches: 3}\n",
      "test", overrides);
}

struct Outcome {
  std::vector<StepReport> steps;
  double validation = 0;
  std::string hash;
};

Outcome train_on(const std::shared_ptr<comm::ProcessGroup>& group, const Config& config) {
  Trainer trainer(config, group);
  Outcome outcome;
  for (int64_t i = 0; i < config.train.steps; ++i) outcome.steps.push_back(trainer.step());
  outcome.validation = trainer.evaluate();
  outcome.hash = trainer.weights_sha256();
  return outcome;
}

Outcome train_alone(Device device, const Config& config = small_gpt()) {
  return train_on(comm::create("local", nullptr, 0, 1, {.device = device}), config);
}

class TrainerOnADevice : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices() == 0) GTEST_SKIP() << test::kNoDevice;
  }
  const Device device_{DeviceType::cuda, 0};
};

TEST_F(TrainerOnADevice, StaysCloseToTheCpu) {
  const Outcome cpu = train_alone(kCpu), device = train_alone(device_);
  for (size_t i = 0; i < cpu.steps.size(); ++i) {
    EXPECT_NEAR(device.steps[i].loss, cpu.steps[i].loss, 1e-4) << "step " << i + 1;
    EXPECT_NEAR(device.steps[i].grad_norm, cpu.steps[i].grad_norm, 1e-4) << "step " << i + 1;
  }
  EXPECT_NEAR(device.validation, cpu.validation, 1e-4);
  EXPECT_EQ(train_alone(device_).hash, device.hash);
}

TEST_F(TrainerOnADevice, HasTheSameBitsOnAnyRanks) {
  for (const char* strategy : {"parallel.strategy=ddp", "parallel.strategy=fsdp"}) {
    const Outcome alone = train_alone(device_, small_gpt({strategy}));
    const auto store = std::make_shared<comm::HashStore>();
    test::run_threads(4, [&](int rank) {
      set_num_threads(1);
      const Outcome mine =
          train_on(comm::create("local", store, rank, 4, {.device = device_of(rank, 2)}),
                   small_gpt({strategy}));
      EXPECT_EQ(mine.hash, alone.hash) << strategy;
      EXPECT_EQ(mine.validation, alone.validation) << strategy;
      for (size_t i = 0; i < mine.steps.size(); ++i)
        EXPECT_EQ(mine.steps[i].loss, alone.steps[i].loss) << strategy << ", step " << i + 1;
    });
  }
}

TEST_F(TrainerOnADevice, KeepsEverythingThere) {
  const std::shared_ptr<comm::ProcessGroup> group =
      comm::create("local", nullptr, 0, 1, {.device = device_});
  Trainer trainer(small_gpt(), group);
  trainer.step();
  EXPECT_EQ(trainer.config().device, DeviceKind::cuda);
  for (const auto& [name, values, shard] : trainer.state())
    EXPECT_EQ(values.device(), device_) << name;
  for (const Parameter& p : trainer.model().module->parameters())
    EXPECT_EQ(p.grad_buffer().device(), device_) << p.name();
  EXPECT_THAT(trainer.devices().text(), HasSubstr("1 x "));
  const auto memory = memory_by_category(device_);
  ASSERT_FALSE(memory.empty());
  EXPECT_EQ(memory.front().first, "parameters");
  EXPECT_EQ(memory.back().first, "pinned");
}

TEST_F(TrainerOnADevice, RefusesAStepThatIsNotFiniteBeforeItTouchesTheWeights) {
  Trainer trainer(small_gpt({"model.dropout=0"}),
                  comm::create("local", nullptr, 0, 1, {.device = device_}));
  trainer.step();
  const Parameter weight = trainer.model().module->parameters().front();
  const std::vector<float> good = weight.data().to_vector<float>();
  weight.data().fill_(std::numeric_limits<double>::infinity());
  EXPECT_THAT(test::error_of([&] { trainer.step(); }), HasSubstr("step 2: the loss is"));
  EXPECT_EQ(trainer.refused(), Refused::not_finite);
  weight.data().copy_(Tensor::from(good, weight.shape(), device_));
  EXPECT_TRUE(std::isfinite(trainer.step().loss));
}

// Pinned memory is not used again while the device still has to read it.
TEST_F(TrainerOnADevice, GetsTheBatchesOfTheDataset) {
  const auto data = open_dataset(small_gpt());
  DeviceBatches batches(*data, device_);
  const auto expect_same = [](const Batch& on_device, const Batch& host) {
    EXPECT_EQ(on_device.inputs.to_vector<int32_t>(), host.inputs.to_vector<int32_t>());
    EXPECT_EQ(on_device.targets.to_vector<int32_t>(), host.targets.to_vector<int32_t>());
  };
  std::vector<Batch> all;
  for (int64_t micro = 0; micro < 9; ++micro) all.push_back(batches.get(1, micro));
  for (int64_t micro = 0; micro < 9; ++micro)
    expect_same(all[static_cast<size_t>(micro)], data->get(1, micro));
  batches.prefetch(2, 3);
  expect_same(batches.evaluation(1), data->evaluation(1));
  expect_same(batches.get(2, 3), data->get(2, 3));
  batches.prefetch(2, 4);  // nobody asks for it
  expect_same(batches.get(2, 5), data->get(2, 5));
  EXPECT_EQ(batches.blank().inputs.device(), device_);
}

}  // namespace
}  // namespace lockstep::train
