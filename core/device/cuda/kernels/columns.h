// Sums down the columns of partial results.
#pragma once

#include "core/device/queue.h"

namespace lockstep::cuda {

// out [n] (+)= the sum of the rows of partial [count, n]. No `out`: nothing to do.
struct PartialSums {
  const float* partial = nullptr;
  float* out = nullptr;
  bool accumulate = false;
};

// Both sums in one launch, in an order that depends on `count` alone. `kernel` is a literal for
// messages.
void add_partials(const char* kernel, const Queue& queue, int64_t count, int64_t n,
                  const PartialSums& first, const PartialSums& second = {});

}  // namespace lockstep::cuda
