// How often a training run waits for its device.
#include <gmock/gmock.h>

#include "core/device/cuda/sim/statistics.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

int64_t waits_of(const std::function<void()>& work) {
  const int64_t before = cuda::sim::statistics(0).host_waits;
  work();
  return cuda::sim::statistics(0).host_waits - before;
}

TEST(SimulatedRun, WaitsForItsDeviceOnceAStep) {
  const Config config = parse_config(
      "data: {kind: random}\n"
      "model: {kind: gpt, layers: 1, heads: 2, dim: 8, block: 4, vocab: 16}\n"
      "train: {steps: 9, global_batch: 8, micro_batch: 2, eval_batches: 2}\n",
      "test");
  Trainer trainer(config, comm::create("local", nullptr, 0, 1, {.device = {DeviceType::cuda, 0}}));
  for (int i = 0; i < 3; ++i) trainer.step();
  EXPECT_EQ(waits_of([&] { trainer.step(); }), 1);
  EXPECT_EQ(waits_of([&] { trainer.evaluate(); }), 1);
}

}  // namespace
}  // namespace lockstep::train
