// The suite on CUDA devices, with the ranks that mpirun started. Two ranks share each device.
#include "comm/mpi/job.h"
#include "tests/conformance/process_group_suite.h"

namespace lockstep::test {
namespace {

constexpr int kDevices = 2;
[[maybe_unused]] const bool kSimulated = simulate_devices(kDevices);

comm::MpiJob job() { return comm::mpi_job().value_or(comm::MpiJob{}); }

void run_here(const std::string& backend, int size,
              const std::function<void(const MakeGroup&)>& body) {
  try {
    const DeviceScope scope(device_of(job().rank, kDevices));
    body([&](GroupOptions options) {
      options.device = DeviceScope::current();
      return comm::create(backend, nullptr, job().rank, size, options);
    });
    // A simulated device of many blocks is slow where page protection guards them.
    allocator(DeviceScope::current()).release_cached();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "rank " << job().rank << " threw: " << e.what();
  }
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(staged_mpi, ProcessGroupSuite,
                         testing::ValuesIn(cases("mpi", {job().size}, run_here, kDevices)),
                         case_name);

}  // namespace lockstep::test
