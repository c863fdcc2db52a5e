// The fixed tree: the one order in which the project adds floats, for any number of ranks.
//
// A sum of n terms is a binary tree over the terms. A node of n terms splits at the largest power
// of two below n:
//
//   7 terms:  ((0 + 1) + (2 + 3)) + ((4 + 5) + 6)
//
// Three ways to walk the tree add in this order, and so give equal bits:
//   - from the top down: split(), as ranks do that hold whole nodes (comm/reduce/reduce_tree.h);
//   - from the bottom up: combine(), which adds neighbours, then neighbours of those;
//   - term by term, in any order: SumSlots (core/tensor/sum_slots.h). Terms in order need
//     level_count() slots.
//
// Kernels of all instruction sets include this file, so every function has internal linkage.
#pragma once

#include <stdint.h>

namespace lockstep::sum_tree {

// Number of terms in the left child of a node of n >= 2 terms.
static inline int64_t split(int64_t n) {
  return int64_t{1} << (63 - __builtin_clzll(static_cast<uint64_t>(n - 1)));
}

// values[0] = the sum of values[0 .. n), n >= 1. two(left, right) adds. Overwrites `values`.
template <typename T, typename F>
static inline T combine(T* values, int64_t n, const F& two) {
  while (n > 1) {
    const int64_t pairs = n / 2;
    for (int64_t i = 0; i < pairs; ++i) values[i] = two(values[2 * i], values[2 * i + 1]);
    if (n % 2) values[pairs] = values[n - 1];
    n = pairs + n % 2;
  }
  return values[0];
}

// Largest number of sums that wait for others if n >= 0 terms come in order: the number of digits
// of a binary counter that counts to n - 1.
static inline int level_count(int64_t n) {
  return n <= 1 ? 0 : 64 - __builtin_clzll(static_cast<uint64_t>(n - 1));
}

}  // namespace lockstep::sum_tree
