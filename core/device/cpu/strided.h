// Kernels over strided views: copy, fill and binary. Compiled once; dense rows of floats go to the
// instruction set's kernels.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cpu {

// The rows that the chosen instruction set provides (isa/isa.h).
struct RowKernels {
  // n dense elements; dtypes equal, or f32 and bf16.
  void (*convert)(DType to, DType from, int64_t n, void* dst, const void* src);
  // dst dense; a and b dense (stride 1) or one repeated element (stride 0). f32 or bf16.
  void (*binary)(BinaryOp op, DType dtype, int64_t n, void* dst, const void* a, int64_t a_stride,
                 const void* b, int64_t b_stride);
};
const RowKernels& row_kernels();

void strided_copy(const StridedView& dst, const StridedView& src);
void strided_fill(const StridedView& dst, double value);
void strided_binary(BinaryOp op, const StridedView& dst, const StridedView& a,
                    const StridedView& b);

}  // namespace lockstep::cpu
