// DDP and FSDP on CUDA devices give the same bits for any number of ranks, whether they share one
// device or have one each, through pinned memory or over NCCL. Ranks are threads.
#include <map>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/parallel.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"
#include "tests/train/devices/device_run.h"

namespace lockstep::train::test {
namespace {

using lockstep::test::cuda_devices, lockstep::test::device_of, lockstep::test::error_of;
using testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = lockstep::test::simulate_devices(4);

// By rank.
std::vector<std::string> hashes(const DeviceRun& run, int ranks, int devices,
                                const std::string& backend = "local") {
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<std::string> found(static_cast<size_t>(ranks));
  lockstep::test::run_threads(ranks, [&](int rank) {
    set_num_threads(1);
    found[static_cast<size_t>(rank)] =
        train(run, comm::create(backend, store, rank, ranks, {.device = device_of(rank, devices)}));
  });
  return found;
}

class DeviceThreads : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (cuda_devices() == 0) GTEST_SKIP() << lockstep::test::kNoDevice;
  }
  const std::string& reference() const {
    static std::map<DType, std::string> known;
    std::string& hash = known[GetParam()];
    if (hash.empty()) hash = hashes({.compute = GetParam()}, 1, 1).front();
    return hash;
  }
  void expect_same(const DeviceRun& run) const {
    ASSERT_EQ(reference().size(), 64u);
    for (const int ranks : {1, 2, 4})
      for (const int devices : {1, ranks}) {
        if (devices > 1 && cuda_devices() < 2) continue;
        for (const std::string& hash : hashes(run, ranks, devices))
          EXPECT_EQ(hash, reference()) << ranks << " ranks on " << devices << " devices";
        if (ranks == 1) break;
      }
    for (const int ranks : {2, 4}) {
      if (cuda_devices() < ranks) continue;
      for (const std::string& hash : hashes(run, ranks, ranks, "nccl"))
        EXPECT_EQ(hash, reference()) << ranks << " ranks over NCCL";
    }
  }
};

TEST_P(DeviceThreads, DdpHasTheSameBits) { expect_same({.compute = GetParam()}); }
TEST_P(DeviceThreads, FsdpHasTheSameBits) { expect_same({.sharded = true, .compute = GetParam()}); }
TEST_P(DeviceThreads, FsdpThatReshardsAfterStepsHasTheSameBits) {
  expect_same(
      {.sharded = true,
       .compute = GetParam(),
       .options = {.reshard = fsdp::Reshard::after_step, .accumulate = fsdp::Accumulate::in_full}});
}

TEST_P(DeviceThreads, FsdpOverAMeshHasTheSameBits) {
  const DeviceRun hybrid{.sharded = true, .compute = GetParam(), .rows = 2};
  const DeviceRun nearby{.sharded = true, .compute = GetParam(), .options = {.nearby = 2}};
  for (const DeviceRun& run : {hybrid, nearby}) {
    for (const std::string& hash : hashes(run, 4, 2)) EXPECT_EQ(hash, reference());
    if (cuda_devices() < 4) continue;
    for (const std::string& hash : hashes(run, 4, 4, "nccl"))
      EXPECT_EQ(hash, reference()) << "over NCCL";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceThreads, testing::Values(DType::f32, DType::bf16),
                         [](const auto& test) { return str(test.param); });

TEST(DeviceThreadsMisuse, AModelElsewhereIsRefusedByName) {
  if (cuda_devices() == 0) GTEST_SKIP() << lockstep::test::kNoDevice;
  const std::shared_ptr<comm::ProcessGroup> group =
      comm::create("local", nullptr, 0, 1, {.device = device_of(0, 1)});
  const auto model = std::make_shared<Gpt>(kModel);
  model->initialize(5);
  EXPECT_THAT(
      error_of([&] { ddp::DistributedDataParallel(model->parameters(), model->buffers(), group); }),
      HasSubstr("[ddp] parameter 'wte.weight' is on cpu, but group 'world' is on cuda:0"));
  EXPECT_THAT(error_of([&] { fsdp::fully_shard(model, group); }),
              HasSubstr("[fsdp] parameter 'wte.weight' is on cpu, but group 'world' is on cuda:0"));
}

TEST(DeviceThreadsMisuse, OffloadFromADeviceIsRefused) {
  if (cuda_devices() == 0) GTEST_SKIP() << lockstep::test::kNoDevice;
  const std::shared_ptr<comm::ProcessGroup> group =
      comm::create("local", nullptr, 0, 1, {.device = device_of(0, 1)});
  const DeviceScope scope(group->device());
  const auto model = std::make_shared<Gpt>(kModel);
  model->initialize(5);
  const fsdp::Options options{
      .own_memory = [](size_t bytes) { return std::make_shared<Storage>(bytes, kCpu); }};
  EXPECT_THAT(error_of([&] { fsdp::fully_shard(model, group, options); }),
              HasSubstr("the model is on cuda:0, but Options::own_memory (parallel.offload)"));
}

}  // namespace
}  // namespace lockstep::train::test
