#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/isa/variants.h"
#include "core/device/cpu/on_cpu.h"

#define LOCKSTEP_TEXT_OF(x) #x
#define LOCKSTEP_TEXT(x) LOCKSTEP_TEXT_OF(x)

namespace lockstep::cpu::LOCKSTEP_ISA {

Variant variant() {
  Variant v{};
  v.name = LOCKSTEP_TEXT(LOCKSTEP_ISA);
  v.rows = {convert_row, binary_row};
  v.probe_fma_gflops = probe_fma_gflops;
  Kernels& k = v.kernels;
  k.unary = OnCpu<unary>::run;
  k.unary_backward = OnCpu<unary_backward>::run;
  k.axpby = OnCpu<axpby>::run;
  k.reduce = OnCpu<reduce>::run;
  k.argmax = OnCpu<argmax>::run;
  k.square_sums = OnCpu<square_sums>::run;
  k.gemm = OnCpu<gemm>::run;
  k.linear_gradients = OnCpu<linear_gradients>::run;
  k.sum_rows = OnCpu<sum_rows>::run;
  k.attention = OnCpu<attention>::run;
  k.attention_backward = OnCpu<attention_backward>::run;
  k.softmax = OnCpu<softmax>::run;
  k.softmax_backward = OnCpu<softmax_backward>::run;
  k.layer_norm = OnCpu<layer_norm>::run;
  k.layer_norm_backward = OnCpu<layer_norm_backward>::run;
  k.rms_norm = OnCpu<rms_norm>::run;
  k.rms_norm_backward = OnCpu<rms_norm_backward>::run;
  k.cross_entropy = OnCpu<cross_entropy>::run;
  k.cross_entropy_backward = OnCpu<cross_entropy_backward>::run;
  k.embedding = OnCpu<embedding>::run;
  k.embedding_backward = OnCpu<embedding_backward>::run;
  k.uniform = OnCpu<uniform>::run;
  k.normal = OnCpu<normal>::run;
  k.dropout = OnCpu<dropout>::run;
  k.adamw = OnCpu<adamw>::run;
  k.sgd = OnCpu<sgd>::run;
  return v;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
