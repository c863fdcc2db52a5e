// The same as threads_test.cpp, with ranks as processes over shared memory.
#include <gtest/gtest.h>

#include "core/base/parallel.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"
#include "tests/train/devices/device_run.h"

namespace lockstep::train::test {
namespace {

using lockstep::test::cuda_devices, lockstep::test::device_of;

[[maybe_unused]] const bool kSimulated = lockstep::test::simulate_devices(4);

// Of all ranks, as rank 0 has compared them.
std::string hash_of(const DeviceRun& run, int ranks, int devices,
                    const std::string& backend = "shm") {
  const auto store = std::make_shared<lockstep::test::ForkStore>();
  lockstep::test::run_ranks(ranks, [&](int rank) {
    set_num_threads(1);
    const std::string hash =
        train(run, comm::create(backend, store, rank, ranks, {.device = device_of(rank, devices)}));
    store->set(str("hash of ", rank), hash);
  });
  const std::string hash = store->get("hash of 0", std::chrono::seconds(1));
  for (int rank = 1; rank < ranks; ++rank)
    EXPECT_EQ(store->get(str("hash of ", rank), std::chrono::seconds(1)), hash);
  return hash;
}

class DeviceProcesses : public testing::TestWithParam<bool> {};

TEST_P(DeviceProcesses, HaveTheSameBits) {
  if (cuda_devices() == 0) GTEST_SKIP() << lockstep::test::kNoDevice;
  const std::string reference = hash_of({}, 1, 1);
  ASSERT_EQ(reference.size(), 64u);
  for (const int ranks : {2, 4})
    for (const int devices : {1, ranks})
      EXPECT_EQ(hash_of({.sharded = GetParam()}, ranks, devices), reference)
          << ranks << " ranks on " << devices << " devices";
  for (const int ranks : {2, 4}) {
    if (cuda_devices() < ranks) continue;
    EXPECT_EQ(hash_of({.sharded = GetParam()}, ranks, ranks, "nccl"), reference)
        << ranks << " ranks over NCCL";
  }
}

INSTANTIATE_TEST_SUITE_P(Wrappers, DeviceProcesses, testing::Bool(),
                         [](const auto& test) { return test.param ? "fsdp" : "ddp"; });

}  // namespace
}  // namespace lockstep::train::test
