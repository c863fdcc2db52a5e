// The kernel table entries that the objects of each instruction set provide, declared once for all.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

void gemm(const GemmArgs& args);
void attention(const AttentionArgs& args, void* out, float* lse);
void attention_backward(const AttentionArgs& args, const void* out, const float* lse,
                        const void* dout, void* dq, void* dk, void* dv);

void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y);
void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* dy, void* dx,
                    bool accumulate);
void axpby(DType dtype, int64_t n, float alpha, const void* x, float beta, void* y);
// Rows of copy and binary; see RowKernels in strided.h.
void convert_row(DType to, DType from, int64_t n, void* dst, const void* src);
void binary_row(BinaryOp op, DType dtype, int64_t n, void* dst, const void* a, int64_t a_stride,
                const void* b, int64_t b_stride);

void reduce(ReduceKind kind, DType dtype, int64_t outer, int64_t n, int64_t inner, const void* x,
            void* y);
void argmax(DType dtype, int64_t rows, int64_t n, const void* x, int64_t* y);
void square_sums(DType dtype, int64_t n, const void* x, double* sums);
void linear_gradients(const LinearGradientsArgs& args);
void sum_rows(DType dtype, int64_t rows, int64_t n, const void* dy, float* db, bool accumulate);

void softmax(DType dtype, int64_t rows, int64_t n, const void* x, void* y);
void softmax_backward(DType dtype, int64_t rows, int64_t n, const void* y, const void* dy, void* dx,
                      bool accumulate);
void layer_norm(DType dtype, int64_t rows, int64_t n, float eps, const void* x, const float* weight,
                const float* bias, void* y, float* mean, float* rstd);
void layer_norm_backward(DType dtype, int64_t rows, int64_t n, const void* x, const float* weight,
                         const float* mean, float* rstd, const void* dy, void* dx,
                         bool accumulate_dx, float* dweight, bool accumulate_dweight, float* dbias,
                         bool accumulate_dbias);
void rms_norm(DType dtype, int64_t rows, int64_t n, float eps, const void* x, const float* weight,
              void* y, float* rstd);
void rms_norm_backward(DType dtype, int64_t rows, int64_t n, const void* x, const float* weight,
                       float* rstd, const void* dy, void* dx, bool accumulate_dx, float* dweight,
                       bool accumulate_dweight);
void cross_entropy(DType dtype, int64_t rows, int64_t classes, const void* logits,
                   const int32_t* targets, int32_t ignore, float* loss, float* lse,
                   int64_t* counted);
void cross_entropy_backward(DType dtype, int64_t rows, int64_t classes, const void* logits,
                            const int32_t* targets, int32_t ignore, const float* lse,
                            const int64_t* counted, const float* scale, void* dlogits);

void embedding(DType dtype, int64_t rows, int64_t n, int64_t vocab, const float* table,
               const int32_t* ids, void* y);
void embedding_backward(DType dtype, int64_t rows, int64_t n, int64_t vocab, const int32_t* ids,
                        const void* dy, float* dtable, bool accumulate);

void uniform(int64_t n, float low, float high, const RandomKey& key, int64_t first, float* y);
void normal(int64_t n, float mean, float stddev, const RandomKey& key, int64_t first, float* y);
void dropout(DType dtype, int64_t n, float p, const RandomKey& key, const void* x, void* y,
             bool accumulate);

void adamw(const AdamWArgs& args);
void sgd(const SgdArgs& args);

// Rate of a loop of independent fused multiply-adds on one thread, in 1e9 floating-point operations
// per second.
double probe_fma_gflops();

}  // namespace lockstep::cpu::LOCKSTEP_ISA
