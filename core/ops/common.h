// Helpers that the operations share. Internal to core/ops.
#pragma once

#include <functional>
#include <string_view>

#include "core/autograd/node.h"
#include "core/device/kernels.h"
#include "core/ops/precision.h"

namespace lockstep::ops {

// The name of an operation's own result in messages.
inline constexpr std::string_view kResult = "its result";

inline StridedView strided(const Tensor& t) { return {t.raw(), t.dtype(), t.shape(), t.strides()}; }
inline const Kernels& kernels_of(const Tensor& t) { return kernels(t.device()); }
// The queue of this thread's work on the tensor's device.
inline const Queue& queue_of(const Tensor& t) { return current_queue(t.device()); }

// The value must be f32 or bf16, or f16 on a CUDA device.
void check_floating(std::string_view op, const Variable& x);
// An f32 vector [n], or undefined.
void check_vector(std::string_view op, std::string_view what, const Variable& x, int64_t n);
void check_same_device(std::string_view op, const Variable& a, const Variable& b);

inline Tensor data_or_undefined(const Variable& x) {
  return x.defined() ? x.data().contiguous() : Tensor();
}

// x [..., n] as dense rows [rows, n].
Tensor as_rows(const Tensor& x);

// dst [M, N] (+)= a [M, K] · b [K, N] (+ bias [N], f32 or on a CUDA device dst's dtype). a and b
// have one dtype. Transposed views cost no copy.
void gemm(const Tensor& dst, bool accumulate, const Tensor& a, const Tensor& b,
          const Tensor& bias = {});

// a op b with broadcasting, as a new tensor.
Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b);
// x summed down to `shape`, which must broadcast to x's shape.
Tensor sum_to(const Tensor& x, const Shape& shape);
Tensor scaled(const Tensor& x, float factor);
// Reduces one axis of x and drops it.
Tensor reduced(ReduceKind kind, const Tensor& x, int axis);

// The values as dense i32 on the device of `ids`. Each must be in [0, limit) or equal to `ignore`.
Tensor checked_ids(std::string_view op, const Tensor& ids, int64_t limit,
                   const int32_t* ignore = nullptr);

// Edge::write for kernels that cannot add. If the target holds a gradient already, computes aside
// and adds.
void overwrite(const Edge& edge, const std::function<void(const Tensor& dst)>& compute);
// As Edge::write, but calls `write` with an undefined tensor if no gradient is needed.
void write_if_needed(const Edge& edge,
                     const std::function<void(const Tensor& dst, bool accumulate)>& write);

}  // namespace lockstep::ops
