// The kernel table of a device: everything that computes, and the only way to compute. core/ops
// validates shapes and dtypes, allocates results, and then calls one of these through
// kernels(device). A new device fills one such table.
//
// Common rules:
// - Pointers are device addresses.
// - Work is queued on `queue`, whose device is the table's, after what was queued there before. No
//   kernel waits for the device or gives a number to the host: results are in device memory.
// - Matrices and rows are row-major, and dense unless a stride says otherwise.
// - `DType` arguments named `dtype` are f32 or bf16 unless a comment says more, and on a CUDA
// device
//   also f16. bf16 and f16 are storage only; arithmetic and sums are f32.
// - Every kernel gives the same bits for any number of threads. It cuts its work into pieces that
//   depend on shapes alone, and combines sums of pieces in a fixed order.
#pragma once

#include <cstdint>

#include "core/base/dtype.h"
#include "core/base/philox.h"
#include "core/base/shape.h"
#include "core/device/queue.h"
#include "core/device/step_numbers.h"

namespace lockstep {

enum class UnaryOp : uint8_t {
  neg,
  exp,
  log,
  sqrt,
  rsqrt,
  square,
  abs,
  tanh,
  sigmoid,
  relu,
  silu,
  gelu,
  gelu_tanh
};
enum class BinaryOp : uint8_t { add, sub, mul, div, maximum, minimum, equal, less, greater };
enum class ReduceKind : uint8_t { sum, mean, max, min };

// Number of elements whose squares make one term of a norm (square_sums).
inline constexpr int64_t kSquareBlock = 1024;

// Words behind the rows of a norm's rstd.
inline constexpr int64_t kNormWords = 64;

// A tensor of any dtype, with strides in elements. A stride of 0 repeats.
struct StridedView {
  void* data;
  DType dtype;
  Shape shape;
  Shape strides;
};

// op(A) in C = op(A) · op(B): a matrix stored [rows, cols] with `ld` elements from row to row, or
// its transpose.
struct GemmOperand {
  const void* data;
  DType dtype;  // f32 or bf16, and on a CUDA device also f16
  int64_t ld;
  // False: A is stored [M, K], B [K, N]. True: A [K, M], B [N, K].
  bool transposed;
};

struct GemmArgs {
  int64_t m, n, k;
  GemmOperand a, b;
  void* c;  // [M, N]
  DType c_dtype;
  int64_t ldc;
  bool accumulate;    // C += A·B instead of C = A·B; f32 C only
  const float* bias;  // [N], added to each row; or nullptr
  // On a CUDA device, the same of c_dtype instead of f32. At most one of both is set.
  const void* rounded_bias = nullptr;
};

// The gradients of a layer y = x·wᵀ + b: dw [n, m] (+)= dyᵀ·x, and db [n] (+)= the sums of dy's
// columns, for dy [rows, n] and x [rows, m].
struct LinearGradientsArgs {
  int64_t rows, n, m;
  DType dtype;  // of dy and x
  const void* dy;
  const void* x;
  float* dw;
  bool accumulate_dw;
  float* db;
  bool accumulate_db;
};

// Self-attention. q is [B, T, H, D], k and v are [B, T, H_kv, D], with strides in elements. The
// last dimension is dense. H_kv divides H: query head h uses key and value head h / (H / H_kv).
struct AttentionArgs {
  int64_t batch, time, heads, kv_heads, head_dim;
  DType dtype;
  const void* q;
  const void* k;
  const void* v;
  int64_t stride_batch, stride_time, stride_head;  // of q, k and v
  float scale;                                     // usually 1/sqrt(D)
  bool causal;

  // Query heads that share a key head.
  int64_t group() const { return heads / kv_heads; }
};

struct AdamWArgs {
  int64_t n;
  float* param;
  const float* grad;
  float* exp_avg;     // m
  float* exp_avg_sq;  // v
  float lr, beta1, beta2, eps, weight_decay;
  bool decoupled_decay;  // true: AdamW (param *= 1 - lr·wd); false: Adam (grad += wd·param)
  int64_t step;          // counts from 1
  float grad_scale;      // multiplies grad first (clipping)
};

struct SgdArgs {
  int64_t n;
  float* param;
  const float* grad;
  float* momentum_buffer;  // nullptr if momentum is 0
  float lr, momentum, weight_decay;
  bool nesterov;
  bool first_step;  // the buffer starts as the gradient
  float grad_scale;
};

// ---- many tensors in one launch ----
// `rows`, one for each tensor, is in memory of the device. A kernel takes the tensors in pieces of
// kManyPiece elements (square_sums_many: of kSquareBlock), and the row says how many pieces come
// before its own: 0 in the first row. `pieces`: those of all rows. No row is empty (n > 0).
inline constexpr int64_t kManyPiece = 4096;

struct AdamWRow {
  float* param;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t n;
  int64_t first_piece;
  int64_t missed;  // number of steps in which this tensor was not updated
  float weight_decay;
  float reserved = 0;
  friend bool operator==(const AdamWRow&, const AdamWRow&) = default;
};

struct AdamWManyArgs {
  const AdamWRow* rows;
  int64_t count;
  int64_t pieces;
  float beta1, beta2, eps;
  bool decoupled_decay;
  const StepNumbers* numbers;  // in memory of the device
};

struct SgdRow {
  float* param;
  const float* grad;
  float* momentum_buffer;  // nullptr if momentum is 0
  int64_t n;
  int64_t first_piece;
  float weight_decay;
  float reserved = 0;
  friend bool operator==(const SgdRow&, const SgdRow&) = default;
};

struct SgdManyArgs {
  const SgdRow* rows;
  int64_t count;
  int64_t pieces;
  float momentum;
  bool nesterov;
  const StepNumbers* numbers;  // in memory of the device
};

struct SquareSumsRow {
  const void* x;
  double* sums;
  int64_t n;
  int64_t first_piece;
  friend bool operator==(const SquareSumsRow&, const SquareSumsRow&) = default;
};

struct SquareSumsManyArgs {
  DType dtype;  // of all x
  const SquareSumsRow* rows;
  int64_t count;
  int64_t pieces;
};

struct CloseStepArgs {
  const double* square_sums;  // [blocks], of all gradients
  int64_t blocks;
  const float* losses;  // [leaves]
  int64_t leaves;
  StepNumbers* numbers;
};

struct Kernels {
  // ---- memory: any dtypes, broadcasting by strides ----
  void (*copy)(const Queue& queue, const StridedView& dst,
               const StridedView& src);  // converts dtypes
  void (*fill)(const Queue& queue, const StridedView& dst, double value);
  // Between memory of the device and of the host, and within each. Pinned host memory is read and
  // written when the copy runs. Other host memory is read before the call returns; a copy into it
  // blocks until it is there.
  void (*copy_bytes)(const Queue& queue, void* dst, const void* src, int64_t bytes);

  // ---- elementwise ----
  // y = op(x), contiguous.
  void (*unary)(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x, void* y);
  // dx = dy · op'(x), plus dx if `accumulate`. `x` is the op's input.
  void (*unary_backward)(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x,
                         const void* dy, void* dx, bool accumulate);
  // Broadcasting. a and b have one dtype: any but bool for arithmetic. Comparisons write bool.
  // A CUDA device gives 0 for an integer divided by zero.
  void (*binary)(const Queue& queue, BinaryOp op, const StridedView& dst, const StridedView& a,
                 const StridedView& b);
  // y = alpha·x + beta·y, contiguous. With beta 0, y is not read.
  void (*axpby)(const Queue& queue, DType dtype, int64_t n, float alpha, const void* x, float beta,
                void* y);

  // ---- reductions ----
  // x [outer, n, inner] → y [outer, inner]. x is f32, bf16 or i64, and y has the same dtype.
  void (*reduce)(const Queue& queue, ReduceKind kind, DType dtype, int64_t outer, int64_t n,
                 int64_t inner, const void* x, void* y);
  // Index of the first maximum over the last axis: x [rows, n] → y i64 [rows].
  void (*argmax)(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                 int64_t* y);
  // sums[i] = sum of the squares of x[i·kSquareBlock, (i+1)·kSquareBlock), in double.
  // The last block is short if n is not a multiple. A block's sum depends on its elements alone. So
  // a shard that starts at a block gets the same numbers as the whole.
  void (*square_sums)(const Queue& queue, DType dtype, int64_t n, const void* x, double* sums);
  // As square_sums of each row, with the same bits.
  void (*square_sums_many)(const Queue& queue, const SquareSumsManyArgs& args);

  // ---- matrices ----
  void (*gemm)(const Queue& queue, const GemmArgs& args);
  // db[n] (+)= sum over rows of dy [rows, n]: the bias gradient. db is f32.
  void (*sum_rows)(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* dy,
                   float* db, bool accumulate);

  // As gemm and sum_rows. A device may compute both in one launch.
  void (*linear_gradients)(const Queue& queue, const LinearGradientsArgs& args);

  // ---- attention ----
  // out: [B, T, H, D] dense. lse: f32 [B, H, T], log-sum-exp of each row's scores, kept for
  // backward. Takes no T×T memory.
  void (*attention)(const Queue& queue, const AttentionArgs& args, void* out, float* lse);
  // dq, dk and dv have the strides of q, k and v. They are overwritten. dk and dv are sums over the
  // query heads of a group, in their order.
  void (*attention_backward)(const Queue& queue, const AttentionArgs& args, const void* out,
                             const float* lse, const void* dout, void* dq, void* dk, void* dv);

  // ---- rows of [rows, n] ----
  void (*softmax)(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x, void* y);
  void (*softmax_backward)(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* y,
                           const void* dy, void* dx, bool accumulate);
  // weight and bias: f32 [n], either may be nullptr. mean: f32 [rows]; rstd: f32 [rows +
  // kNormWords], both kept for backward. What is behind the rows belongs to the kernels: a device
  // counts there how far its backward pass is. So passes that share it come one after the other.
  void (*layer_norm)(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps,
                     const void* x, const float* weight, const float* bias, void* y, float* mean,
                     float* rstd);
  // Each accumulate_… says whether that gradient is added to or overwritten. dweight and dbias may
  // each be nullptr.
  void (*layer_norm_backward)(const Queue& queue, DType dtype, int64_t rows, int64_t n,
                              const void* x, const float* weight, const float* mean, float* rstd,
                              const void* dy, void* dx, bool accumulate_dx, float* dweight,
                              bool accumulate_dweight, float* dbias, bool accumulate_dbias);
  void (*rms_norm)(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps,
                   const void* x, const float* weight, void* y, float* rstd);
  void (*rms_norm_backward)(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                            const float* weight, float* rstd, const void* dy, void* dx,
                            bool accumulate_dx, float* dweight, bool accumulate_dweight);
  // Mean over rows of -log softmax(logits)[target]. targets: i32; rows whose target is `ignore` do
  // not count. lse: f32 [rows]. loss: f32 [1]. `counted`: i64 [1], the number of rows that
  // counted. Rows are summed in a fixed tree.
  void (*cross_entropy)(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                        const void* logits, const int32_t* targets, int32_t ignore, float* loss,
                        float* lse, int64_t* counted);
  // dlogits = (softmax(logits) − onehot)·(scale[0]/counted), and 0 for ignored rows. counted: i64
  // [1]. scale: f32 [1], the incoming gradient.
  void (*cross_entropy_backward)(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                                 const void* logits, const int32_t* targets, int32_t ignore,
                                 const float* lse, const int64_t* counted, const float* scale,
                                 void* dlogits);

  // ---- indexing ----
  // y[i] = table[ids[i]]. table: f32 [vocab, n]. y: [rows, n] of `dtype`. On a CPU, core/ops has
  // checked that ids are in range. A device that cannot tell the host fills the row of another id
  // with NaN, and reads no memory outside the table; embedding_backward leaves such a row out, and
  // cross_entropy gives NaN for such a target.
  void (*embedding)(const Queue& queue, DType dtype, int64_t rows, int64_t n, int64_t vocab,
                    const float* table, const int32_t* ids, void* y);
  // dtable [vocab, n] f32 (+)= rows of dy at their ids, summed in row order.
  void (*embedding_backward)(const Queue& queue, DType dtype, int64_t rows, int64_t n,
                             int64_t vocab, const int32_t* ids, const void* dy, float* dtable,
                             bool accumulate);

  // ---- random ----
  // Element i of the tensor uses number (first + i) of the stream. So a shard draws what the whole
  // tensor would draw at its place.
  void (*uniform)(const Queue& queue, int64_t n, float low, float high, const RandomKey& key,
                  int64_t first, float* y);
  // Uses the method of Box and Muller.
  void (*normal)(const Queue& queue, int64_t n, float mean, float stddev, const RandomKey& key,
                 int64_t first, float* y);
  // y = x·mask/(1−p). The backward pass calls it again with dy. The mask is drawn again from the
  // key and never stored.
  void (*dropout)(const Queue& queue, DType dtype, int64_t n, float p, const RandomKey& key,
                  const void* x, void* y, bool accumulate);

  // ---- optimizers ----
  void (*adamw)(const Queue& queue, const AdamWArgs& args);
  void (*sgd)(const Queue& queue, const SgdArgs& args);
  // As adamw and sgd of each row, with the same bits, by the numbers that are in memory when the
  // kernel runs; the step of a row is numbers->step - missed. No element is written, and none of
  // the gradients read, unless numbers->apply. The buffer of sgd starts as 0.
  void (*adamw_many)(const Queue& queue, const AdamWManyArgs& args);
  void (*sgd_many)(const Queue& queue, const SgdManyArgs& args);
  // Computes norm, loss, grad_scale and apply of the numbers. Adds in the order of the fixed tree
  // (core/base/sum_tree.h), so the bits are those of a CPU that adds the same terms.
  void (*close_step)(const Queue& queue, const CloseStepArgs& args);
};

const Kernels& kernels(Device device);

// The instruction set of the chosen CPU kernels: "avx512_bf16", "avx512", "avx2" or "generic". A
// run records it, because bits are comparable only among machines with the same one.
const char* cpu_instruction_set();

}  // namespace lockstep
