#include "core/device/probe.h"

#include <algorithm>
#include <vector>

#include <immintrin.h>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/device/cpu/isa/variants.h"

namespace lockstep {
namespace {

constexpr int kChains = 12;  // more than latency times units, fewer than the registers
constexpr int64_t kSteps = 400'000;

__attribute__((target("avx512f,avx512bf16"), noinline)) float run_bf16_chains(int64_t steps) {
  __m512 chain[kChains];
  for (auto& c : chain) c = _mm512_setzero_ps();
  const __m512i ones = _mm512_set1_epi32(0x3f803f80);
  const auto x = reinterpret_cast<__m512bh>(ones);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = _mm512_dpbf16_ps(chain[c], x, x);
  float sum = 0.0f;
  for (const auto& c : chain) sum += c[0];
  return sum;
}

// Takes the fastest of several short runs, because slower ones shared the core.
double bf16_dot_gflops() {
  constexpr double kOperations = 2.0 * 32 * kChains * kSteps;
  double best = 0.0;
  volatile float sink = 0.0f;
  for (int attempt = 0; attempt < 12; ++attempt) {
    const auto start = Clock::now();
    sink = run_bf16_chains(kSteps);
    best = std::max(best, kOperations / seconds(Clock::now() - start) * 1e-9);
  }
  static_cast<void>(sink);
  return best;
}

double f32_peak() {
  static const double peak = cpu::chosen_variant().probe_fma_gflops();
  return peak;
}

double bf16_peak() {
  static const double peak = __builtin_cpu_supports("avx512bf16") ? bf16_dot_gflops() : f32_peak();
  return peak;
}

double memory_rate() {
  constexpr int64_t kElements = 16 << 20, kPieces = 64, kEach = kElements / kPieces;
  std::vector<float> x(kElements, 1.0f), y(kElements, 1.0f);
  double best = 0.0;
  for (int attempt = 0; attempt < 6; ++attempt) {
    const auto start = Clock::now();
    parallel_for(kPieces, [&](int64_t piece) {
      const float* from = x.data() + piece * kEach;
      float* to = y.data() + piece * kEach;
      for (int64_t i = 0; i < kEach; ++i) to[i] += from[i];
    });
    best = std::max(best, 3.0 * sizeof(float) * kElements / seconds(Clock::now() - start));
  }
  return best;
}

}  // namespace

double probe_memory_bytes_per_s() {
  static const double rate = memory_rate();
  return rate;
}

double probe_peak_gflops(DType dtype) {
  check(dtype == DType::f32 || dtype == DType::bf16,
        "[probe_peak_gflops] expected f32 or bf16, got ", dtype);
  return dtype == DType::f32 ? f32_peak() : bf16_peak();
}

}  // namespace lockstep
