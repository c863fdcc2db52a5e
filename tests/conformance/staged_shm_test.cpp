// The suite on CUDA devices, with ranks as processes of one host. Two ranks share each device.
#include "tests/conformance/process_group_suite.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {
namespace {

constexpr int kDevices = 2;
[[maybe_unused]] const bool kSimulated = simulate_devices(kDevices);

void run_forked(const std::string& backend, int size,
                const std::function<void(const MakeGroup&)>& body) {
  const auto store = std::make_shared<ForkStore>();
  cuda_devices();
  run_ranks(size, [&](int rank) {
    const DeviceScope scope(device_of(rank, kDevices));
    body([&](GroupOptions options) {
      options.device = DeviceScope::current();
      return comm::create(backend, store, rank, size, options);
    });
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(staged_shm, ProcessGroupSuite,
                         testing::ValuesIn(cases("shm", {1, 2, 3, 4}, run_forked, kDevices)),
                         case_name);

}  // namespace lockstep::test
