// Kernels over strided views: copy, fill and binary. They are compiled once. Dense rows of floats
// go to the kernels of the instruction set.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cpu {

// Row kernels of the chosen instruction set (isa/isa.h).
struct RowKernels {
  // n dense elements. The dtypes are equal, or f32 and bf16.
  void (*convert)(DType to, DType from, int64_t n, void* dst, const void* src);
  // dst is dense. a and b are dense (stride 1) or one repeated element (stride 0). f32 or bf16.
  void (*binary)(BinaryOp op, DType dtype, int64_t n, void* dst, const void* a, int64_t a_stride,
                 const void* b, int64_t b_stride);
};
const RowKernels& row_kernels();

void strided_copy(const StridedView& dst, const StridedView& src);
void strided_fill(const StridedView& dst, double value);
void strided_binary(BinaryOp op, const StridedView& dst, const StridedView& a,
                    const StridedView& b);

}  // namespace lockstep::cpu
