// Ranks as threads for tests of NCCL groups, each with a device of its own.
#pragma once

#include <functional>
#include <memory>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "tests/support/devices.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {

inline constexpr int kNcclDevices = 4;

// Runs body(group) on each rank. Its device is the current one.
inline void run_nccl(int ranks, const std::function<void(comm::ProcessGroup&)>& body,
                     const comm::GroupOptions& options = {.timeout = std::chrono::seconds(60)}) {
  const auto store = std::make_shared<comm::HashStore>();
  run_threads(ranks, [&](int rank) {
    const DeviceScope scope(device_of(rank, kNcclDevices));
    comm::GroupOptions own = options;
    own.device = DeviceScope::current();
    body(*comm::create("nccl", store, rank, ranks, own));
  });
}

}  // namespace lockstep::test
