#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/isa/variants.h"

#define LOCKSTEP_TEXT_OF(x) #x
#define LOCKSTEP_TEXT(x) LOCKSTEP_TEXT_OF(x)

namespace lockstep::cpu::LOCKSTEP_ISA {

Variant variant() {
  Variant v{};
  v.name = LOCKSTEP_TEXT(LOCKSTEP_ISA);
  v.rows = {convert_row, binary_row};
  v.probe_fma_gflops = probe_fma_gflops;
  Kernels& k = v.kernels;
  k.unary = unary;
  k.unary_backward = unary_backward;
  k.axpby = axpby;
  k.reduce = reduce;
  k.argmax = argmax;
  k.square_sums = square_sums;
  k.gemm = gemm;
  k.sum_rows = sum_rows;
  k.attention = attention;
  k.attention_backward = attention_backward;
  k.softmax = softmax;
  k.softmax_backward = softmax_backward;
  k.layer_norm = layer_norm;
  k.layer_norm_backward = layer_norm_backward;
  k.rms_norm = rms_norm;
  k.rms_norm_backward = rms_norm_backward;
  k.cross_entropy = cross_entropy;
  k.cross_entropy_backward = cross_entropy_backward;
  k.embedding = embedding;
  k.embedding_backward = embedding_backward;
  k.uniform = uniform;
  k.normal = normal;
  k.dropout = dropout;
  k.adamw = adamw;
  k.sgd = sgd;
  return v;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
