// Orders of the simulated device, for tests of what must hold in every order, and of mistakes that
// some order must show.
#pragma once

#include <cstdint>

#include "core/device/cuda/sim/seed.h"

namespace lockstep::test {

// The first of the seeds 1 to `seeds` with which wrong() returns true, or 0 if there is none.
template <class Wrong>
int seed_that_shows(int seeds, const Wrong& wrong) {
  for (int seed = 1; seed <= seeds; ++seed) {
    cuda::sim::set_seed(static_cast<uint64_t>(seed));
    if (wrong()) return seed;
  }
  return 0;
}

}  // namespace lockstep::test
