// The seed of the simulated device, for tests that try several.
#pragma once

#include <cstdint>

namespace lockstep::cuda::sim {

// Runs what is queued and can run. All choices from then on follow from the seed: the order of
// queued work, and that of the blocks and threads of kernels. The process starts with
// LOCKSTEP_SIM_SEED. In a process with one thread that uses the device, equal seeds and calls give
// equal orders. Thread-safe.
void set_seed(uint64_t seed);

}  // namespace lockstep::cuda::sim
