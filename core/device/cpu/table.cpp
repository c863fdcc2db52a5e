#include "core/device/cpu/table.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/base/error.h"
#include "core/device/cpu/isa/variants.h"
#include "core/device/cpu/many.h"
#include "core/device/cpu/on_cpu.h"

namespace lockstep::cpu {
namespace {

bool runs_generic() { return true; }
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool runs_avx512_bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }

struct Candidate {
  std::string_view name;
  bool (*runs)();
  Variant (*variant)();
  const char* needs;
};
constexpr Candidate kCandidates[] = {  // best first
    {"avx512_bf16", runs_avx512_bf16, avx512_bf16::variant, "AVX-512 (f, bw, dq, vl) with bf16"},
    {"avx512", runs_avx512, avx512::variant, "AVX-512 (f, bw, dq, vl)"},
    {"avx2", runs_avx2, avx2::variant, "AVX2 with FMA"},
    {"generic", runs_generic, generic::variant, ""}};

Variant choose() {
  const char* asked = std::getenv("LOCKSTEP_ISA");
  const std::string_view want = asked ? asked : "";
  for (const Candidate& c : kCandidates) {
    if (want == c.name)
      check(c.runs(), "LOCKSTEP_ISA=", c.name, ", but this machine lacks ", c.needs);
    if (want.empty() ? c.runs() : want == c.name) return c.variant();
  }
  throw UsageError(
      str("LOCKSTEP_ISA: expected generic, avx2, avx512 or avx512_bf16, got '", want, "'"));
}

void copy_bytes(void* dst, const void* src, int64_t bytes) {
  std::memcpy(dst, src, static_cast<size_t>(bytes));
}

Kernels complete(Kernels k) {
  k.copy = OnCpu<strided_copy>::run;
  k.fill = OnCpu<strided_fill>::run;
  k.binary = OnCpu<strided_binary>::run;
  k.copy_bytes = OnCpu<copy_bytes>::run;
  k.square_sums_many = OnCpu<square_sums_many>::run;
  k.adamw_many = OnCpu<adamw_many>::run;
  k.sgd_many = OnCpu<sgd_many>::run;
  k.close_step = OnCpu<close_step>::run;
  return k;
}

}  // namespace

const Variant& chosen_variant() {
  static const Variant variant = choose();
  return variant;
}

const RowKernels& row_kernels() { return chosen_variant().rows; }

const Kernels& kernel_table() {
  static const Kernels table = complete(chosen_variant().kernels);
  return table;
}

}  // namespace lockstep::cpu

namespace lockstep {
const char* cpu_instruction_set() { return cpu::chosen_variant().name; }
}  // namespace lockstep
