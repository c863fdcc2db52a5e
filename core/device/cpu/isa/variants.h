// What is chosen at run time: one Variant per instruction set. isa/variant.cpp is compiled once for
// each.
#pragma once

#include "core/device/cpu/strided.h"
#include "core/device/kernels.h"

namespace lockstep::cpu {

struct Variant {
  const char* name;
  // Without the entries that are compiled once (copy, fill, binary, host copies).
  Kernels kernels;
  RowKernels rows;
  double (*probe_fma_gflops)();
};

namespace generic {
Variant variant();
}
namespace avx2 {
Variant variant();
}
namespace avx512 {
Variant variant();
}
namespace avx512_bf16 {  // with products of bf16
Variant variant();
}

// The best variant that this machine runs. LOCKSTEP_ISA=generic|avx2|avx512|avx512_bf16 in the
// environment selects a lesser one.
const Variant& chosen_variant();

}  // namespace lockstep::cpu
