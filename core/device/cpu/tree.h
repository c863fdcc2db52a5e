// Sums of partial results in one fixed order: neighbours first, then neighbours of those, whatever produced them.
#pragma once

#include <stdint.h>

namespace lockstep::cpu {

// Overwrites `values`; n >= 1.
template <typename T, typename F>
static inline T tree_combine(T* values, int64_t n, const F& two) {
  while (n > 1) {
    const int64_t pairs = n / 2;
    for (int64_t i = 0; i < pairs; ++i) values[i] = two(values[2 * i], values[2 * i + 1]);
    if (n % 2) values[pairs] = values[n - 1];
    n = pairs + n % 2;
  }
  return values[0];
}

}  // namespace lockstep::cpu
