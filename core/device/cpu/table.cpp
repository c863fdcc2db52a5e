#include "core/device/cpu/table.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/base/error.h"
#include "core/device/cpu/isa/variants.h"

namespace lockstep::cpu {
namespace {

bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

Variant choose() {
  const char* asked = std::getenv("LOCKSTEP_ISA");
  const std::string_view want = asked ? asked : "";
  check(want.empty() || want == "generic" || want == "avx2" || want == "avx512", "LOCKSTEP_ISA: expected generic, avx2 or avx512, got '",
        want, "'");
  check(want != "avx512" || runs_avx512(), "LOCKSTEP_ISA=avx512, but this machine has no AVX-512 (f, bw, dq, vl)");
  check(want != "avx2" || runs_avx2(), "LOCKSTEP_ISA=avx2, but this machine has no AVX2 with FMA");
  if (want == "avx512" || (want.empty() && runs_avx512())) return avx512::variant();
  if (want == "avx2" || (want.empty() && runs_avx2())) return avx2::variant();
  return generic::variant();
}

void copy_bytes(void* dst, const void* src, int64_t bytes) { std::memcpy(dst, src, static_cast<size_t>(bytes)); }

Kernels complete(Kernels k) {
  k.copy = strided_copy;
  k.fill = strided_fill;
  k.binary = strided_binary;
  k.copy_from_host = copy_bytes;
  k.copy_to_host = copy_bytes;
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
