// Helpers of the kernel tests: data, and comparison with plain loops in double.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/parallel.h"
#include "core/base/philox.h"
#include "core/device/kernels.h"

namespace lockstep::testing {

inline const Kernels& k() { return kernels(kCpu); }
inline const Queue& queue() { return current_queue(kCpu); }

// Values in [low, high) that the stored type holds exactly, so that a reference sees the same
// inputs.
template <typename T>
std::vector<T> random(int64_t n, uint32_t site, float low = -1.0f, float high = 1.0f) {
  std::vector<T> x(static_cast<size_t>(n));
  const RandomKey key{.seed = 7, .site = site};
  for (size_t i = 0; i < x.size(); ++i) {
    const auto bits = philox(key, static_cast<uint32_t>(i / 4))[i % 4];
    x[i] = T(low + (high - low) * uniform_from_bits(bits));
  }
  return x;
}

// Relative to the larger of |want| and `floor`.
template <typename T>
void expect_near(const std::vector<T>& got, const std::vector<double>& want, double tolerance,
                 double floor = 1.0) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = tolerance * std::max(floor, std::abs(want[i]));
    ASSERT_NEAR(static_cast<double>(static_cast<float>(got[i])), want[i], allowed)
        << "at element " << i << " of " << got.size();
  }
}

// What storing a result as T costs in precision.
template <typename T>
constexpr double rounding() {
  return std::is_same_v<T, BFloat16> ? 1.0 / 256 : std::is_same_v<T, Float16> ? 1.0 / 2048 : 2e-7;
}

// Runs `compute` (which returns a vector) with 1, 2, 3 and 4 threads and expects the same bytes.
template <typename F>
void expect_same_bits_for_any_threads(const F& compute) {
  const int before = num_threads();
  set_num_threads(1);
  const auto one = compute();
  for (int threads : {2, 3, 4}) {
    set_num_threads(threads);
    const auto many = compute();
    ASSERT_EQ(one.size(), many.size());
    EXPECT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(one[0])), 0)
        << "with " << threads << " threads";
  }
  set_num_threads(before);
}

}  // namespace lockstep::testing
