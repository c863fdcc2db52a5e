// Kernels on the simulated device.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <set>
#include <stdexcept>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/device/cuda/sim/fiber.h"
#include "core/device/cuda/sim/seed.h"
#include "tests/core/device/cuda/sim/sim_device.h"
#include "tests/support/error_of.h"
#include "tests/support/sim_seeds.h"

namespace lockstep::cuda::sim {
namespace {

using test::error_of;
using ::testing::Each;
using ::testing::HasSubstr;

__global__ void index_kernel(int* x) {
  x[blockIdx.x * blockDim.x + threadIdx.x] =
      static_cast<int>((gridDim.x * 1000 + blockIdx.x) * 10000 + threadIdx.x);
}

TEST(SimulatedKernels, RunOnceInEachThread) {
  for (const bool together : {false, true})
    for (const int64_t blocks : {1, 2, 7, 64})
      for (const int threads : {32, 96, 1024}) {
        const TestStream stream;
        const auto size = static_cast<size_t>(blocks * threads);
        const Array<int> x(size);
        if (together)
          run(stream, blocks, threads, index_kernel, x.data());
        else
          run_independent(stream, blocks, threads, index_kernel, x.data());
        const std::vector<int> got = x.get(stream);
        for (size_t i = 0; i < size; ++i)
          ASSERT_EQ(got[i], (blocks * 1000 + static_cast<int>(i) / threads) * 10000 +
                                static_cast<int>(i) % threads);
      }
}

TEST(SimulatedKernels, NeedAGridThatDevicesTake) {
  const TestStream stream;
  const auto launched = [&](int64_t blocks, int threads) {
    return error_of([&] { launch("test", stream, blocks, threads, true, [] {}); });
  };
  EXPECT_EQ(launched(1, 33), "[test] expected a multiple of 32 threads up to 1024, got 33");
  EXPECT_EQ(launched(1, 1056), "[test] expected a multiple of 32 threads up to 1024, got 1056");
  EXPECT_THAT(launched(0, 32), HasSubstr("[test] expected 1 to 2147483647 blocks, got 0"));
  EXPECT_THAT(error_of([] { launch("test", nullptr, 1, 32, true, [] {}); }),
              HasSubstr("[cuda] test: invalid resource handle"));
}

// Blocks and, within them, threads take numbers as they run: a race, which is what this is about.
LOCKSTEP_SIM_NO_TSAN __global__ void order_kernel(int* next, int* order) {
  order[(*next)++] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

std::vector<int> order_with(uint64_t seed, bool together) {
  run_leftovers();
  set_seed(seed);
  const TestStream stream;
  const Array<int> next(1), order(16 * 64);
  next.set({0}, stream);
  if (together)
    run(stream, 16, 64, order_kernel, next.data(), order.data());
  else
    run_independent(stream, 16, 64, order_kernel, next.data(), order.data());
  return order.get(stream);
}

TEST(SimulatedKernels, RunInTheOrderOfTheSeed) {
  for (const bool together : {false, true}) {
    const std::vector<int> order = order_with(1, together);
    EXPECT_EQ(order, order_with(1, together));
    EXPECT_NE(order, order_with(2, together));
    std::vector<int> sorted = order, all(order.size());
    std::sort(sorted.begin(), sorted.end());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(sorted, all);
  }
}

// ---- barriers ----

template <bool kWaitsBefore, bool kWaitsAfter>
__global__ void reverse_kernel(int* x, int rounds) {
  __shared__ int shared[256];
  const unsigned i = threadIdx.x, n = blockDim.x;
  for (int round = 0; round < rounds; ++round) {
    shared[i] = x[blockIdx.x * n + i];
    if (kWaitsBefore) __syncthreads();
    x[blockIdx.x * n + i] = shared[n - 1 - i] + 1;
    if (kWaitsAfter) __syncthreads();
  }
}

template <bool kWaitsBefore, bool kWaitsAfter>
bool reverse_is_wrong() {
  const TestStream stream;
  const Array<int> x(3 * 256);
  std::vector<int> want(3 * 256);
  std::iota(want.begin(), want.end(), 0);
  x.set(want, stream);
  run(stream, 3, 256, reverse_kernel<kWaitsBefore, kWaitsAfter>, x.data(), 4);
  for (int& value : want) value += 4;
  return x.get(stream) != want;
}

TEST(SimulatedBarriers, OrderSharedMemory) {
  EXPECT_EQ(test::seed_that_shows(5, [] { return reverse_is_wrong<true, true>(); }), 0);
}

TEST(SimulatedBarriers, AreMissedWhereTheyAreMissing) {
#ifdef LOCKSTEP_SIM_TSAN
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(std::exit((reverse_is_wrong<false, true>(), 0)), "data race");
  EXPECT_DEATH(std::exit((reverse_is_wrong<true, false>(), 0)), "data race");
#else
  EXPECT_NE(test::seed_that_shows(5, [] { return reverse_is_wrong<false, true>(); }), 0);
  EXPECT_NE(test::seed_that_shows(5, [] { return reverse_is_wrong<true, false>(); }), 0);
#endif
}

__global__ void warp_kernel(int* x) {
  __shared__ int shared[64];
  const unsigned i = threadIdx.x;
  shared[i] = static_cast<int>(i);
  __syncwarp();
  x[i] = shared[i ^ 1];
}

TEST(SimulatedBarriers, OrderAWarp) {
  const TestStream stream;
  const Array<int> x(64);
  run(stream, 1, 64, warp_kernel, x.data());
  const std::vector<int> got = x.get(stream);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], i ^ 1);
}

// ---- shuffles ----

struct Pair {
  float a, b;
};

__global__ void shuffle_kernel(int* x) {
  const int i = static_cast<int>(threadIdx.x), lane = i % kWarp;
  bool right = __shfl_xor_sync(kFullWarp, i, 5) == (i ^ 5);
  right &= __shfl_down_sync(kFullWarp, i, 3) == (lane + 3 < kWarp ? i + 3 : i);
  right &= __shfl_up_sync(kFullWarp, i, 3) == (lane >= 3 ? i - 3 : i);
  right &= __shfl_sync(kFullWarp, i, 7) == i - lane + 7;
  right &= __shfl_sync(kFullWarp, 0.25 * i, 0) == 0.25 * (i - lane);
  const Pair pair = __shfl_xor_sync(kFullWarp, (Pair{1.0f * i, -1.0f * i}), 1);
  right &= pair.a == 1.0f * (i ^ 1) && pair.b == -1.0f * (i ^ 1);
  x[i] = right;
}

TEST(SimulatedShuffles, ExchangeValuesOfAWarp) {
  EXPECT_EQ(test::seed_that_shows(5,
                                  [] {
                                    const TestStream stream;
                                    const Array<int> x(128);
                                    run(stream, 1, 128, shuffle_kernel, x.data());
                                    return x.get(stream) != std::vector<int>(128, 1);
                                  }),
            0);
}

__global__ void warp_sum_kernel(int* x) {
  int value = static_cast<int>(threadIdx.x);
  // Warps do not wait for each other.
  for (unsigned round = 0; round <= threadIdx.x / kWarp; ++round)
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      value += __shfl_xor_sync(kFullWarp, value, offset);
  x[threadIdx.x] = value;
}

TEST(SimulatedShuffles, AreAWarpsOwn) {
  const TestStream stream;
  const Array<int> x(96);
  run(stream, 1, 96, warp_sum_kernel, x.data());
  const std::vector<int> got = x.get(stream);
  int factor = 1;
  for (int warp = 0; warp < 3; ++warp, factor *= kWarp)
    for (int lane = 0; lane < kWarp; ++lane)
      EXPECT_EQ(got[static_cast<size_t>(warp * kWarp + lane)],
                factor * (kWarp * kWarp * warp + kWarp * (kWarp - 1) / 2));
}

// ---- mistakes ----

class KernelMistakes : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  static void run_alone(void (*kernel)(), bool together = true) {
    const TestStream stream;
    launch("wrong", stream, 2, 64, together, kernel);
    stream.synchronize();
  }
};

__global__ void early_kernel() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
__global__ void divergent_kernel() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void mixed_kernel() {
  if (threadIdx.x < 5)
    __syncthreads();
  else
    __syncwarp();
}
__global__ void half_shuffle_kernel() {
  if (threadIdx.x % 2 == 0) __shfl_xor_sync(kFullWarp, 1, 2);
}
__global__ void barrier_kernel() { __syncthreads(); }
__global__ void shuffle_alone_kernel() { __shfl_xor_sync(kFullWarp, 1, 1); }
__global__ void throwing_kernel() { throw std::runtime_error("oh"); }

TEST_F(KernelMistakes, AThreadThatLeavesBeforeABarrier) {
  EXPECT_DEATH(run_alone(early_kernel),
               "kernel wrong, block [01]: thread .* waits at __syncthreads\\(\\) of "
               ".*kernel_test.cpp:.*, but thread 40 has finished");
}

TEST_F(KernelMistakes, BarriersAtDifferentPlaces) {
  EXPECT_DEATH(run_alone(divergent_kernel),
               "kernel wrong, block [01]: thread .* waits at .*kernel_test.cpp:.*, but thread .* "
               "waits at __syncthreads\\(\\) of .*kernel_test.cpp:");
}

TEST_F(KernelMistakes, BarriersOfDifferentKinds) {
  EXPECT_DEATH(run_alone(mixed_kernel), "waits at __sync.*, but thread .* waits at __sync");
}

TEST_F(KernelMistakes, AShuffleWithoutAllLanes) {
  EXPECT_DEATH(run_alone(half_shuffle_kernel), "waits at a shuffle .*, but thread .* has finished");
}

TEST_F(KernelMistakes, BarriersOfIndependentThreads) {
  EXPECT_DEATH(run_alone(barrier_kernel, false),
               "kernel wrong, block [01]: __syncthreads\\(\\) at .*, but it was launched as "
               "independent threads");
  EXPECT_DEATH(run_alone(shuffle_alone_kernel, false), "a shuffle at .*, but it was launched as");
}

TEST_F(KernelMistakes, AnExceptionInAFiber) {
  EXPECT_DEATH(run_alone(throwing_kernel), "kernel wrong, block [01]: oh");
}

}  // namespace
}  // namespace lockstep::cuda::sim
