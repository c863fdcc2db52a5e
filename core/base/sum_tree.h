// The fixed tree: the one order in which the project adds floats, whoever computed them.
//
// A sum of n terms is a binary tree over the terms. A node of n terms splits at the largest power
// of two below n:
//
//   7 terms:  ((0 + 1) + (2 + 3)) + ((4 + 5) + 6)
//
// Three ways of walking add in this order, and so give equal bits:
//   - from the top down: split(), as ranks do that hold whole nodes (comm/reduce/reduce_tree.h);
//   - from the bottom up: combine(), which adds neighbours, then neighbours of those;
//   - term by term: level_of() and carried_by(), as BinaryCounter (core/tensor) adds.
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

// Of a binary counter that takes terms one by one: the level at which the sum that term i completes
// stays, 2^level terms in all. The last term of a sum has no level: with it the sum is whole.
static inline int level_of(int64_t i) { return __builtin_ctzll(~static_cast<uint64_t>(i)); }

// The levels whose sums are added to term i, the lowest first, as a set of bits: those that
// complete a pair with it, or, if it is the last term, all that are filled.
static inline uint64_t carried_by(int64_t i, bool last) {
  return last ? static_cast<uint64_t>(i) : (uint64_t{1} << level_of(i)) - 1;
}

// How many levels a sum of n >= 0 terms uses.
static inline int level_count(int64_t n) {
  return n <= 1 ? 0 : 64 - __builtin_clzll(static_cast<uint64_t>(n - 1));
}

}  // namespace lockstep::sum_tree
