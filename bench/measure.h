// What the kernel benchmarks share: the model's sizes, data, and rates.
#pragma once

#include <vector>

#include <benchmark/benchmark.h>

#include "core/base/parallel.h"
#include "core/device/kernels.h"
#include "core/device/probe.h"

namespace lockstep::bench {

inline constexpr int64_t kTokens = 1024, kDim = 384;

inline const Kernels& k() { return kernels(kCpu); }
inline const Queue& queue() { return current_queue(kCpu); }

inline std::vector<float> data(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  k().uniform(queue(), n, -1.0f, 1.0f, {.seed = 1}, 0, x.data());
  return x;
}

inline void report_rate(benchmark::State& state, double flops, DType dtype) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  const double peak = probe_peak_gflops(dtype) * num_threads();
  state.counters["of_peak"] =
      benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsIterationInvariantRate);
}

// The matrix products of a step: m, n, k, A transposed, B transposed.
inline void step_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t out : {3 * kDim, kDim, 4 * kDim}) {
    b->Args({kTokens, out, kDim, 0, 1});  // forward
    b->Args({kTokens, kDim, out, 0, 0});  // gradient of the input
    b->Args({out, kDim, kTokens, 1, 0});  // gradient of the weight
  }
  b->ArgNames({"m", "n", "k", "ta", "tb"});
}

}  // namespace lockstep::bench
