// State on a CUDA device: what is saved, put aside and restored, and what the device may do
// meanwhile. Where the device is simulated, in several orders.
#include "checkpoint/format/chunks.h"
#include "checkpoint/replica/replica_copy.h"
#include "checkpoint/save/save_job.h"
#include "checkpoint/save/saver.h"
#include "core/device/cuda_device.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

constexpr Device kCuda{DeviceType::cuda, 0};

class DeviceState : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no CUDA device: " << cuda::why_none();
  }

  // One is on the host, and one is not dense.
  std::vector<Entry> state(int64_t start, Device device = kCuda) const {
    return {Entry("a", counting({300, 7}, DType::f32, start).to(device)),
            Entry("b", counting({40}, DType::bf16, start).to(device)),
            Entry("big", counting({700, 300}, DType::f32, start).to(device)),
            Entry("host", counting({9}, DType::f32, start)),
            Entry("t", counting({5, 3}, DType::f32, start).to(device).transpose(0, 1))};
  }
  static void overwrite(const std::vector<Entry>& entries) {
    for (const Entry& entry : entries) entry.tensor.fill_(77);
  }
  static void expect_equal(const std::vector<Entry>& got, const std::vector<Entry>& want) {
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_EQ(bytes_of(got[i].tensor.to(kCpu).contiguous()),
                bytes_of(want[i].tensor.to(kCpu).contiguous()))
          << want[i].name;
  }
  std::vector<Entry> restored(const std::string& folder) const {
    std::vector<Entry> entries = state(50);
    Checkpoint::open(folder).read(entries);
    return entries;
  }

  const test::TempDir dir_;
};

TEST_F(DeviceState, ComesBackFromASave) {
  const auto entries = state(3);
  const std::string folder = save({.dir = dir_.path(), .step = 1, .entries = entries});
  expect_equal(restored(folder), state(3));
}

TEST_F(DeviceState, MayChangeWhileItIsSavedInTheBackground) {
  Saver saver({.dir = dir_.path()});
  for (int64_t step = 1; step <= 20; ++step) {
    const auto entries = state(step);
    saver.start(step, entries, {});
    overwrite(entries);
    const auto outcome = saver.wait();
    ASSERT_TRUE(outcome);
    ASSERT_EQ(outcome->error, "");
    expect_equal(restored(outcome->folder), state(step));
  }
}

TEST_F(DeviceState, MayChangeOnceItsReplicaIsFilled) {
  for (int64_t start = 1; start <= 20; ++start) {
    const auto entries = state(start);
    const SavePlan plan = plan_save(nullptr, entries);
    const CopyLayout layout = lay_out_copy(plan.plan, 0);
    const StateCopy copy{Tensor::zeros({layout.bytes}, DType::u8),
                         Tensor::zeros({chunk_count(layout.bytes)}, DType::i64)};
    copy.fill(slices_of(entries, layout), layout);
    overwrite(entries);
    CopyReader reader(entries);
    reader.take(layout, 0, copy.data.raw(), layout.bytes);
    reader.finish();
    expect_equal(entries, state(start));
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
