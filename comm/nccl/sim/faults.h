// Mistakes and failures that tests plant into the simulated NCCL of this process.
#pragma once

#include <cstdint>

namespace lockstep::comm::nccl::sim {

enum class Fault : uint8_t {
  none,
  hang_in_init,   // the rank never joins
  hang,           // the operation never ends, and nobody says why
  error,          // the communicator fails at the operation, which never ends
  error_in_init,  // the rank cannot join
};

// From here on: what happens to rank `rank` of each communicator, at its operation `operation`
// (0, 1, …). Thread-safe.
void plant(Fault fault, int rank, uint64_t operation = 0);
Fault planted(int rank, uint64_t operation);

}  // namespace lockstep::comm::nccl::sim
