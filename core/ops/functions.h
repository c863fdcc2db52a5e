// Differentiable operations on Variables. Each validates shapes, dtypes and devices (UsageError:
// "[op] expected …, got …"), computes through the device's kernel table, and records only what
// backward needs.
//
// Inputs may be views of any layout. If a kernel needs dense memory, the operation copies.
//
// Floating-point operations take f32 or bf16 (storage only; arithmetic is f32) and return the dtype
// of their input. Inside a PrecisionScope (core/ops/precision.h), matrix products, attention and
// embeddings return the scope's dtype. No result depends on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "core/autograd/variable.h"
#include "core/base/philox.h"
#include "core/device/kernels.h"

namespace lockstep::ops {

// ---- elementwise: a and b have one dtype and broadcast (NumPy's rules) ----
Variable add(const Variable& a, const Variable& b);
Variable sub(const Variable& a, const Variable& b);
Variable mul(const Variable& a, const Variable& b);
Variable div(const Variable& a, const Variable& b);
Variable add(const Variable& a, float b);
Variable mul(const Variable& a, float b);

// Any function of one argument in the kernel table. The named ones below are shorthands.
Variable unary(UnaryOp op, const Variable& x);
Variable neg(const Variable& x);
Variable exp(const Variable& x);
Variable log(const Variable& x);
Variable sqrt(const Variable& x);
Variable rsqrt(const Variable& x);
Variable square(const Variable& x);
Variable abs(const Variable& x);  // derivative 0 at 0
Variable tanh(const Variable& x);
Variable sigmoid(const Variable& x);
Variable relu(const Variable& x);  // derivative 0 at 0
Variable silu(const Variable& x);
Variable gelu(const Variable& x);       // x·Φ(x), by erf
Variable gelu_tanh(const Variable& x);  // GPT-2's approximation

// Converts between floating-point dtypes. The gradient returns in x's dtype. Returns x if it has
// the dtype already.
Variable cast(const Variable& x, DType dtype);

// ---- reductions ----
Variable sum(const Variable& x);  // over all elements, to shape []
Variable mean(const Variable& x);
Variable sum(const Variable& x, int axis, bool keepdim = false);
Variable mean(const Variable& x, int axis, bool keepdim = false);
// Elements that share the maximum share its gradient equally.
Variable max(const Variable& x, int axis, bool keepdim = false);
Variable softmax(const Variable& x, int axis = -1);
Variable log_softmax(const Variable& x, int axis = -1);

// ---- shapes: views if the layout allows ----
Variable reshape(const Variable& x, const Shape& shape);  // one dimension may be -1
Variable transpose(const Variable& x, int axis_a, int axis_b);
Variable narrow(const Variable& x, int axis, int64_t start, int64_t length);
Variable concat(const std::vector<Variable>& parts, int axis);

// ---- matrices ----
// [..., M, K] · [..., K, N]. Leading dimensions broadcast. Transposed views cost no copy.
Variable matmul(const Variable& a, const Variable& b);
// x [..., in] · weightᵀ + bias. weight: [out, in]. bias: f32 [out], or undefined. The weight's
// gradient is computed directly in the leaf's gradient memory. If x comes from a norm or a function
// of one argument, backward on a CPU computes x again instead of keeping it (SavedInput).
Variable linear(const Variable& x, const Variable& weight, const Variable& bias);

// ---- layers ----
// Over the last dimension of x [..., n]. weight and bias: f32 [n], either may be undefined.
Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias,
                    float eps = 1e-5f);
Variable rms_norm(const Variable& x, const Variable& weight, float eps = 1e-6f);
// Rows of table f32 [vocab, n] at ids [...] (i32, i64 or u8, each within the table). Returns [...,
// n].
Variable embedding(const Tensor& ids, const Variable& table);
// x·mask/(1−p), 0 ≤ p < 1. Forward and backward both draw the mask from `key`. It is never stored.
Variable dropout(const Variable& x, float p, const RandomKey& key);
// Causal self-attention. qkv [B, T, (heads + 2·kv_heads)·D] holds q, k and v side by side: `heads`
// heads of queries, then `kv_heads` of keys and as many of values, each D wide. kv_heads divides
// heads, and query head h uses key head h / (heads / kv_heads); 0 means as many as heads. Returns
// [B, T, heads·D]. Scores are scaled by 1/sqrt(D). Never holds a T×T matrix.
Variable causal_attention(const Variable& qkv, int64_t heads, int64_t kv_heads = 0);

// ---- loss ----
// Mean of −log softmax(logits)[target], f32 []. logits: [..., V]. targets: [...] (i32, i64 or u8),
// each in [0, V) or equal to `ignore_index`. Ignored rows do not count. NaN if no row counts.
Variable cross_entropy(const Variable& logits, const Tensor& targets, int32_t ignore_index = -100);

}  // namespace lockstep::ops
