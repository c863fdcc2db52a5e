// The generator behind every choice of the simulated device.
#pragma once

#include <cstdint>
#include <numeric>

namespace lockstep::cuda::sim {

// splitmix64. Equal seeds give equal choices.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // A number in [0, n), for n from 1 to 2^32.
  uint64_t below(uint64_t n) { return ((next() >> 32) * n) >> 32; }

 private:
  uint64_t state_;
};

// An order of the numbers [0, n) that needs no memory. Calls visit() for each of them.
template <class Visit>
void in_random_order(int64_t n, Random& random, const Visit& visit) {
  int64_t step = n > 2 ? 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(n - 1))) : 1;
  while (std::gcd(step, n) > 1) --step;
  int64_t at = n > 0 ? static_cast<int64_t>(random.below(static_cast<uint64_t>(n))) : 0;
  for (int64_t i = 0; i < n; ++i) {
    visit(at);
    at += step;
    if (at >= n) at -= n;
  }
}

}  // namespace lockstep::cuda::sim
