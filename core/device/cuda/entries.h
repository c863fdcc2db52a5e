// The kernel table's entries on a CUDA device; core/device/kernels.h says what each does. One file
// of kernels/ defines each group.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cuda {

// ---- kernels/strided.cu ----
void copy(const Queue& queue, const StridedView& dst, const StridedView& src);
void fill(const Queue& queue, const StridedView& dst, double value);
void copy_bytes(const Queue& queue, void* dst, const void* src, int64_t bytes);

// ---- kernels/elementwise.cu ----
void unary(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x, void* y);
void unary_backward(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x,
                    const void* dy, void* dx, bool accumulate);
void binary(const Queue& queue, BinaryOp op, const StridedView& dst, const StridedView& a,
            const StridedView& b);
void axpby(const Queue& queue, DType dtype, int64_t n, float alpha, const void* x, float beta,
           void* y);

// ---- kernels/reduce.cu ----
void reduce(const Queue& queue, ReduceKind kind, DType dtype, int64_t outer, int64_t n,
            int64_t inner, const void* x, void* y);
void argmax(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x, int64_t* y);
void square_sums(const Queue& queue, DType dtype, int64_t n, const void* x, double* sums);
void square_sums_many(const Queue& queue, const SquareSumsManyArgs& args);

// ---- gemm.cpp: products by cuBLASLt ----
void gemm(const Queue& queue, const GemmArgs& args);
void linear_gradients(const Queue& queue, const LinearGradientsArgs& args);

// ---- kernels/reduce.cu ----
void sum_rows(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* dy, float* db,
              bool accumulate);

// ---- attention.cpp: by cuDNN, or kernels/attention.cu ----
void attention(const Queue& queue, const AttentionArgs& args, void* out, float* lse);
void attention_backward(const Queue& queue, const AttentionArgs& args, const void* out,
                        const float* lse, const void* dout, void* dq, void* dk, void* dv);

// ---- kernels/softmax.cu ----
void softmax(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x, void* y);
void softmax_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* y,
                      const void* dy, void* dx, bool accumulate);

// ---- kernels/norm.cu ----
void layer_norm(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
                const float* weight, const float* bias, void* y, float* mean, float* rstd);
void layer_norm_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                         const float* weight, const float* mean, float* rstd, const void* dy,
                         void* dx, bool accumulate_dx, float* dweight, bool accumulate_dweight,
                         float* dbias, bool accumulate_dbias);
void rms_norm(const Queue& queue, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
              const float* weight, void* y, float* rstd);
void rms_norm_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, const void* x,
                       const float* weight, float* rstd, const void* dy, void* dx,
                       bool accumulate_dx, float* dweight, bool accumulate_dweight);

// ---- kernels/cross_entropy.cu ----
void cross_entropy(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                   const void* logits, const int32_t* targets, int32_t ignore, float* loss,
                   float* lse, int64_t* counted);
void cross_entropy_backward(const Queue& queue, DType dtype, int64_t rows, int64_t classes,
                            const void* logits, const int32_t* targets, int32_t ignore,
                            const float* lse, const int64_t* counted, const float* scale,
                            void* dlogits);

// ---- kernels/indexing.cu ----
void embedding(const Queue& queue, DType dtype, int64_t rows, int64_t n, int64_t vocab,
               const float* table, const int32_t* ids, void* y);
void embedding_backward(const Queue& queue, DType dtype, int64_t rows, int64_t n, int64_t vocab,
                        const int32_t* ids, const void* dy, float* dtable, bool accumulate);

// ---- kernels/random.cu ----
void uniform(const Queue& queue, int64_t n, float low, float high, const RandomKey& key,
             int64_t first, float* y);
void normal(const Queue& queue, int64_t n, float mean, float stddev, const RandomKey& key,
            int64_t first, float* y);
void dropout(const Queue& queue, DType dtype, int64_t n, float p, const RandomKey& key,
             const void* x, void* y, bool accumulate);

// ---- kernels/optimizer.cu ----
void adamw(const Queue& queue, const AdamWArgs& args);
void sgd(const Queue& queue, const SgdArgs& args);
void adamw_many(const Queue& queue, const AdamWManyArgs& args);
void sgd_many(const Queue& queue, const SgdManyArgs& args);

// ---- kernels/close_step.cu ----
void close_step(const Queue& queue, const CloseStepArgs& args);

}  // namespace lockstep::cuda
