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

const std::vector<std::string> kHalf{"train.precision=fp16"};

TEST_F(TrainerOnADevice, TrainsInHalfPrecision) {
  const Outcome full = train_alone(device_), half = train_alone(device_, small_gpt(kHalf));
  EXPECT_NE(half.hash, full.hash);
  for (size_t i = 0; i < full.steps.size(); ++i) {
    EXPECT_FALSE(half.steps[i].skipped);
    EXPECT_NEAR(half.steps[i].loss, full.steps[i].loss, 1e-2) << "step " << i + 1;
    EXPECT_NEAR(half.steps[i].grad_norm, full.steps[i].grad_norm, 1e-2) << "step " << i + 1;
  }
}

// 2^24 · the gradient of a loss does not fit into f16. The scale is halved until it does: in as
// many steps with each number of ranks, and with the same bits.
TEST_F(TrainerOnADevice, SkipsStepsWhoseGradientsOverflow) {
  const auto train_with_large_scale = [](Trainer& trainer) {
    for (const auto& [name, values, shard] : trainer.state())
      if (name == "optim.gradient_scale")
        values.copy_(Tensor::from(std::vector<int64_t>{24, 0, 0}, {3}));
    trainer.set_steps_done(0);
    Outcome outcome;
    std::string before = trainer.weights_sha256();
    for (int i = 0; i < 12; ++i) {
      const StepReport report = trainer.step();
      outcome.hash = trainer.weights_sha256();
      EXPECT_EQ(report.skipped, outcome.hash == before) << "step " << report.step;
      EXPECT_EQ(report.skipped, !std::isfinite(report.grad_norm)) << "step " << report.step;
      before = outcome.hash;
      outcome.steps.push_back(report);
    }
    return outcome;
  };
  for (const char* strategy : {"parallel.strategy=ddp", "parallel.strategy=fsdp"}) {
    const Config config = small_gpt({kHalf[0], strategy, "train.steps=12"});
    Trainer trainer(config, comm::create("local", nullptr, 0, 1, {.device = device_}));
    const Outcome alone = train_with_large_scale(trainer);
    EXPECT_TRUE(alone.steps.front().skipped);
    EXPECT_FALSE(alone.steps.back().skipped);
    const auto store = std::make_shared<comm::HashStore>();
    test::run_threads(2, [&](int rank) {
      set_num_threads(1);
      Trainer mine(config, comm::create("local", store, rank, 2, {.device = device_of(rank, 2)}));
      EXPECT_EQ(train_with_large_scale(mine).hash, alone.hash) << strategy;
    });
  }
}

// Also the scale, and how many steps the optimizer did.
TEST_F(TrainerOnADevice, ContinuesAfterSkippedSteps) {
  const Config config = small_gpt({kHalf[0], "train.steps=20"});
  const auto make = [&] {
    return std::make_unique<Trainer>(config,
                                     comm::create("local", nullptr, 0, 1, {.device = device_}));
  };
  const auto first = make(), second = make();
  for (const auto& [name, values, shard] : first->state())
    if (name == "optim.gradient_scale")
      values.copy_(Tensor::from(std::vector<int64_t>{24, 0, 0}, {3}));
  first->set_steps_done(0);
  for (int i = 0; i < 12; ++i) first->step();
  const auto from = first->state(), to = second->state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) to[i].values.copy_(from[i].values);
  second->set_steps_done(first->steps_done());
  for (int i = 0; i < 3; ++i) {
    const StepReport a = first->step(), b = second->step();
    EXPECT_FALSE(a.skipped);
    EXPECT_EQ(a.grad_norm, b.grad_norm);
    EXPECT_EQ(first->weights_sha256(), second->weights_sha256());
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

// All of the state, also that of the optimizer, is as after the step before: with steps that are
// queued anew and with recorded ones.
TEST_F(TrainerOnADevice, AStepThatIsNotFiniteChangesNothing) {
  for (const int steps_before : {1, 4})
    for (const char* kind : {"optim.kind=adamw", "optim.kind=sgd"}) {
      SCOPED_TRACE(str(kind, " after ", steps_before, " steps"));
      const auto make = [&] {
        return std::make_unique<Trainer>(
            small_gpt({"model.dropout=0", "train.steps=9", kind, "optim.momentum=0.9"}),
            comm::create("local", nullptr, 0, 1, {.device = device_}));
      };
      const auto trainer = make(), other = make();
      for (int i = 0; i < steps_before; ++i) trainer->step(), other->step();
      const Parameter weight = trainer->model().module->parameters().front();
      const std::vector<float> good = weight.data().to_vector<float>();
      weight.data().fill_(std::numeric_limits<double>::infinity());
      EXPECT_THAT(test::error_of([&] { trainer->step(); }),
                  HasSubstr(str("step ", steps_before + 1, ": the loss is")));
      EXPECT_EQ(trainer->refused(), Refused::not_finite);
      EXPECT_EQ(trainer->steps_done(), steps_before);
      weight.data().copy_(Tensor::from(good, weight.shape(), device_));
      const auto expect_equal = [&] {
        const auto state = trainer->state(), want = other->state();
        for (size_t i = 0; i < state.size(); ++i)
          EXPECT_EQ(state[i].values.to_vector<float>(), want[i].values.to_vector<float>())
              << state[i].name;
      };
      expect_equal();
      for (int i = 0; i < 3; ++i) EXPECT_EQ(trainer->step().loss, other->step().loss);
      expect_equal();
    }
}

TEST_F(TrainerOnADevice, RecordedStepsHaveTheBitsOfOthers) {
  const std::vector<std::string> kinds[] = {{},
                                            {"model.kind=llama", "train.recompute=blocks"},
                                            {"train.precision=bf16", "model.dropout=0"}};
  for (const auto& kind : kinds) {
    SCOPED_TRACE(kind.empty() ? "gpt" : kind.front());
    const auto run = [&](bool records) {
      std::vector<std::string> overrides{str("train.capture=", records ? "auto" : "off"),
                                         "train.steps=6"};
      overrides.insert(overrides.end(), kind.begin(), kind.end());
      Trainer trainer(small_gpt(overrides),
                      comm::create("local", nullptr, 0, 1, {.device = device_}));
      Outcome outcome;
      for (int i = 0; i < 6; ++i) {
        outcome.steps.push_back(trainer.step());
        EXPECT_EQ(trainer.recorder().launched(), records && i >= StepRecorder::kEagerSteps);
        if (i == 3) outcome.validation = trainer.evaluate();
      }
      outcome.hash = trainer.weights_sha256();
      return outcome;
    };
    const Outcome recorded = run(true), queued = run(false);
    EXPECT_EQ(recorded.hash, queued.hash);
    EXPECT_EQ(recorded.validation, queued.validation);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(recorded.steps[i].loss, queued.steps[i].loss) << "step " << i + 1;
      EXPECT_EQ(recorded.steps[i].grad_norm, queued.steps[i].grad_norm) << "step " << i + 1;
    }
  }
}

TEST_F(TrainerOnADevice, SaysWhyStepsAreNotRecorded) {
  const auto why = [&](const std::vector<std::string>& overrides) {
    Trainer trainer(small_gpt(overrides),
                    comm::create("local", nullptr, 0, 1, {.device = device_}));
    for (int i = 0; i < 3; ++i) trainer.step();
    return trainer.recorder().prevented();
  };
  EXPECT_EQ(why({}), "");
  EXPECT_THAT(why({"parallel.strategy=fsdp"}), HasSubstr("fsdp"));
  EXPECT_THAT(why({"train.capture=off"}), HasSubstr("off"));
}

// With memory that moved, a recorded step would update what is no longer the model.
TEST_F(TrainerOnADevice, AParameterThatMovesIsRecordedAnew) {
  const auto run = [&](bool moves) {
    Trainer trainer(small_gpt({"model.dropout=0", "train.steps=9"}),
                    comm::create("local", nullptr, 0, 1, {.device = device_}));
    for (int i = 0; i < 8; ++i) {
      if (moves && i == 5)
        for (const Parameter& p : trainer.model().module->parameters())
          p.set_data(p.data().clone());
      trainer.step();
    }
    return trainer.weights_sha256();
  };
  EXPECT_EQ(run(true), run(false));
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
