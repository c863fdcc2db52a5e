#include <time.h>

#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

constexpr int kChains = 12;  // more than latency times units, fewer than the registers

__attribute__((noinline)) float run_chains(int64_t steps, float start) {
  Vf chain[kChains];
  for (Vf& c : chain) c = splat(start);
  const Vf factor = splat(0.999f), term = splat(0.001f);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + term;
  Vf sum{};
  for (const Vf& c : chain) sum += c;
  return sum_lanes(sum);
}

}  // namespace

double probe_fma_gflops() {
  constexpr int64_t kSteps = 400000;
  double best = 0.0;
  volatile float sink = 1.0f;
  // Takes the fastest of several short runs, because slower ones shared the core.
  for (int attempt = 0; attempt < 12; ++attempt) {
    const double start = now();
    sink = run_chains(kSteps, sink);
    const double rate = 2.0 * kChains * kLanes * kSteps / (now() - start) * 1e-9;
    if (rate > best) best = rate;
  }
  return best;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
