// The suite on CUDA devices through NCCL, with ranks as threads. Each rank has a device.
#include "comm/local/hash_store.h"
#include "tests/conformance/process_group_suite.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {
namespace {

constexpr int kDevices = 4;
[[maybe_unused]] const bool kSimulated = simulate_devices(kDevices);

void run_as_threads(const std::string& backend, int size,
                    const std::function<void(const MakeGroup&)>& body) {
  if (cuda_devices() < size) GTEST_SKIP() << "there are " << cuda_devices() << " CUDA devices";
  const auto store = std::make_shared<comm::HashStore>();
  run_threads(size, [&](int rank) {
    const DeviceScope scope(device_of(rank, kDevices));
    body([&](GroupOptions options) {
      options.device = DeviceScope::current();
      return comm::create(backend, store, rank, size, options);
    });
    // A simulated device of many blocks is slow where page protection guards them.
    allocator(DeviceScope::current()).release_cached();
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(nccl_threads, ProcessGroupSuite,
                         testing::ValuesIn(cases("nccl", {1, 2, 3, 4}, run_as_threads, kDevices)),
                         case_name);

}  // namespace lockstep::test
