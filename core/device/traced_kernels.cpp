#include "core/device/traced_kernels.h"

#include "core/trace/trace.h"

namespace lockstep {
namespace {

using trace::About;
using trace::Form;
using trace::Kind;
using trace::Span;

const Kernels& own(const Queue& queue) { return untraced_kernels(queue.device()); }

constexpr int64_t kF32 = size_of(DType::f32);
constexpr trace::Field kDType{"dtype", Form::dtype};

// Runs `call` as one event.
template <typename Call>
void record(const Queue& queue, const Kind& kind, About about, const Call& call) {
  about.queued = queue.device() != kCpu;
  const Span span(kind, [&] { return about; });
  call(own(queue));
}

int64_t as_int(DType dtype) { return static_cast<int64_t>(dtype); }

// ---- memory and elements ----

constexpr Kind kElements{"op", "?", {{{"elements"}, kDType}}};

// `arrays`: how many arrays of this size and dtype are read and written, together.
About elements(const char* name, int64_t n, DType dtype, int64_t arrays) {
  return {.values = {n, as_int(dtype)}, .bytes = n * size_of(dtype) * arrays, .name = name};
}

int64_t bytes_of(const StridedView& view) { return view.shape.numel() * size_of(view.dtype); }

void copy(const Queue& q, const StridedView& dst, const StridedView& src) {
  About about =
      elements(dst.dtype == src.dtype ? "copy" : "convert", dst.shape.numel(), dst.dtype, 1);
  about.bytes += bytes_of(src);
  record(q, kElements, about, [&](const Kernels& k) { k.copy(q, dst, src); });
}
void fill(const Queue& q, const StridedView& dst, double value) {
  record(q, kElements, elements("fill", dst.shape.numel(), dst.dtype, 1),
         [&](const Kernels& k) { k.fill(q, dst, value); });
}
void copy_bytes(const Queue& q, void* dst, const void* src, int64_t bytes) {
  record(q, kElements, elements("copy bytes", bytes, DType::u8, 2),
         [&](const Kernels& k) { k.copy_bytes(q, dst, src, bytes); });
}

const char* name_of(UnaryOp op) {
  constexpr const char* kNames[] = {"neg",  "exp",     "log",  "sqrt", "rsqrt", "square",   "abs",
                                    "tanh", "sigmoid", "relu", "silu", "gelu",  "gelu_tanh"};
  return kNames[static_cast<size_t>(op)];
}
const char* backward_name_of(UnaryOp op) {
  constexpr const char* kNames[] = {
      "neg backward",    "exp backward",  "log backward",      "sqrt backward",    "rsqrt backward",
      "square backward", "abs backward",  "tanh backward",     "sigmoid backward", "relu backward",
      "silu backward",   "gelu backward", "gelu_tanh backward"};
  return kNames[static_cast<size_t>(op)];
}
const char* name_of(BinaryOp op) {
  constexpr const char* kNames[] = {"add",     "sub",   "mul",  "div",    "maximum",
                                    "minimum", "equal", "less", "greater"};
  return kNames[static_cast<size_t>(op)];
}
const char* name_of(ReduceKind kind) {
  constexpr const char* kNames[] = {"reduce sum", "reduce mean", "reduce max", "reduce min"};
  return kNames[static_cast<size_t>(kind)];
}

void unary(const Queue& q, UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  record(q, kElements, elements(name_of(op), n, dtype, 2),
         [&](const Kernels& k) { k.unary(q, op, dtype, n, x, y); });
}
void unary_backward(const Queue& q, UnaryOp op, DType dtype, int64_t n, const void* x,
                    const void* dy, void* dx, bool accumulate) {
  record(q, kElements, elements(backward_name_of(op), n, dtype, accumulate ? 4 : 3),
         [&](const Kernels& k) { k.unary_backward(q, op, dtype, n, x, dy, dx, accumulate); });
}
void binary(const Queue& q, BinaryOp op, const StridedView& dst, const StridedView& a,
            const StridedView& b) {
  About about = elements(name_of(op), dst.shape.numel(), dst.dtype, 1);
  about.bytes += bytes_of(a) + bytes_of(b);
  record(q, kElements, about, [&](const Kernels& k) { k.binary(q, op, dst, a, b); });
}
void axpby(const Queue& q, DType dtype, int64_t n, float alpha, const void* x, float beta,
           void* y) {
  record(q, kElements, elements("axpby", n, dtype, beta == 0 ? 2 : 3),
         [&](const Kernels& k) { k.axpby(q, dtype, n, alpha, x, beta, y); });
}
void dropout(const Queue& q, DType dtype, int64_t n, float p, const RandomKey& key, const void* x,
             void* y, bool accumulate) {
  record(q, kElements, elements("dropout", n, dtype, accumulate ? 3 : 2),
         [&](const Kernels& k) { k.dropout(q, dtype, n, p, key, x, y, accumulate); });
}
void uniform(const Queue& q, int64_t n, float low, float high, const RandomKey& key, int64_t first,
             float* y) {
  record(q, kElements, elements("uniform", n, DType::f32, 1),
         [&](const Kernels& k) { k.uniform(q, n, low, high, key, first, y); });
}
void normal(const Queue& q, int64_t n, float mean, float stddev, const RandomKey& key,
            int64_t first, float* y) {
  record(q, kElements, elements("normal", n, DType::f32, 1),
         [&](const Kernels& k) { k.normal(q, n, mean, stddev, key, first, y); });
}

// ---- reductions ----

constexpr Kind kReduce{"op", "reduce", {{{"outer"}, {"n"}, {"inner"}, kDType}}};

void reduce(const Queue& q, ReduceKind kind, DType dtype, int64_t outer, int64_t n, int64_t inner,
            const void* x, void* y) {
  record(q, kReduce,
         {.values = {outer, n, inner, as_int(dtype)},
          .bytes = outer * (n + 1) * inner * size_of(dtype),
          .name = name_of(kind)},
         [&](const Kernels& k) { k.reduce(q, kind, dtype, outer, n, inner, x, y); });
}
void square_sums(const Queue& q, DType dtype, int64_t n, const void* x, double* sums) {
  record(q, kElements, elements("square_sums", n, dtype, 1),
         [&](const Kernels& k) { k.square_sums(q, dtype, n, x, sums); });
}

// ---- rows ----

constexpr Kind kRows{"op", "?", {{{"rows"}, {"n"}, kDType}}};

About rows_of(const char* name, int64_t rows, int64_t n, DType dtype, int64_t arrays) {
  return {.values = {rows, n, as_int(dtype)},
          .bytes = rows * n * size_of(dtype) * arrays,
          .name = name};
}

void argmax(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* x, int64_t* y) {
  record(q, kRows, rows_of("argmax", rows, n, dtype, 1),
         [&](const Kernels& k) { k.argmax(q, dtype, rows, n, x, y); });
}
void sum_rows(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* dy, float* db,
              bool accumulate) {
  record(q, kRows, rows_of("sum_rows", rows, n, dtype, 1),
         [&](const Kernels& k) { k.sum_rows(q, dtype, rows, n, dy, db, accumulate); });
}
void softmax(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* x, void* y) {
  record(q, kRows, rows_of("softmax", rows, n, dtype, 2),
         [&](const Kernels& k) { k.softmax(q, dtype, rows, n, x, y); });
}
void softmax_backward(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* y,
                      const void* dy, void* dx, bool accumulate) {
  record(q, kRows, rows_of("softmax backward", rows, n, dtype, accumulate ? 4 : 3),
         [&](const Kernels& k) { k.softmax_backward(q, dtype, rows, n, y, dy, dx, accumulate); });
}
void layer_norm(const Queue& q, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
                const float* weight, const float* bias, void* y, float* mean, float* rstd) {
  record(q, kRows, rows_of("layer_norm", rows, n, dtype, 2), [&](const Kernels& k) {
    k.layer_norm(q, dtype, rows, n, eps, x, weight, bias, y, mean, rstd);
  });
}
void layer_norm_backward(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* x,
                         const float* weight, const float* mean, float* rstd, const void* dy,
                         void* dx, bool accumulate_dx, float* dweight, bool accumulate_dweight,
                         float* dbias, bool accumulate_dbias) {
  record(q, kRows, rows_of("layer_norm backward", rows, n, dtype, accumulate_dx ? 4 : 3),
         [&](const Kernels& k) {
           k.layer_norm_backward(q, dtype, rows, n, x, weight, mean, rstd, dy, dx, accumulate_dx,
                                 dweight, accumulate_dweight, dbias, accumulate_dbias);
         });
}
void rms_norm(const Queue& q, DType dtype, int64_t rows, int64_t n, float eps, const void* x,
              const float* weight, void* y, float* rstd) {
  record(q, kRows, rows_of("rms_norm", rows, n, dtype, 2),
         [&](const Kernels& k) { k.rms_norm(q, dtype, rows, n, eps, x, weight, y, rstd); });
}
void rms_norm_backward(const Queue& q, DType dtype, int64_t rows, int64_t n, const void* x,
                       const float* weight, float* rstd, const void* dy, void* dx,
                       bool accumulate_dx, float* dweight, bool accumulate_dweight) {
  record(q, kRows, rows_of("rms_norm backward", rows, n, dtype, accumulate_dx ? 4 : 3),
         [&](const Kernels& k) {
           k.rms_norm_backward(q, dtype, rows, n, x, weight, rstd, dy, dx, accumulate_dx, dweight,
                               accumulate_dweight);
         });
}
void cross_entropy(const Queue& q, DType dtype, int64_t rows, int64_t classes, const void* logits,
                   const int32_t* targets, int32_t ignore, float* loss, float* lse,
                   int64_t* counted) {
  record(q, kRows, rows_of("cross_entropy", rows, classes, dtype, 1), [&](const Kernels& k) {
    k.cross_entropy(q, dtype, rows, classes, logits, targets, ignore, loss, lse, counted);
  });
}
void cross_entropy_backward(const Queue& q, DType dtype, int64_t rows, int64_t classes,
                            const void* logits, const int32_t* targets, int32_t ignore,
                            const float* lse, const int64_t* counted, const float* scale,
                            void* dlogits) {
  record(q, kRows, rows_of("cross_entropy backward", rows, classes, dtype, 2),
         [&](const Kernels& k) {
           k.cross_entropy_backward(q, dtype, rows, classes, logits, targets, ignore, lse, counted,
                                    scale, dlogits);
         });
}
void embedding(const Queue& q, DType dtype, int64_t rows, int64_t n, int64_t vocab,
               const float* table, const int32_t* ids, void* y) {
  About about = rows_of("embedding", rows, n, dtype, 1);
  about.bytes += rows * n * kF32;
  record(q, kRows, about,
         [&](const Kernels& k) { k.embedding(q, dtype, rows, n, vocab, table, ids, y); });
}
void embedding_backward(const Queue& q, DType dtype, int64_t rows, int64_t n, int64_t vocab,
                        const int32_t* ids, const void* dy, float* dtable, bool accumulate) {
  About about = rows_of("embedding backward", rows, n, dtype, 1);
  about.bytes += vocab * n * kF32 * (accumulate ? 2 : 1);
  record(q, kRows, about, [&](const Kernels& k) {
    k.embedding_backward(q, dtype, rows, n, vocab, ids, dy, dtable, accumulate);
  });
}

// ---- products and attention ----

constexpr Kind kGemm{.category = "op",
                     .name = "gemm",
                     .fields = {{{"m"}, {"n"}, {"k"}, kDType, {"accumulate", Form::flag}}},
                     .by_values = true};

// A·B, with t for an operand that is stored as its transpose.
const char* gemm_name(const GemmArgs& a) {
  if (a.a.transposed) return a.b.transposed ? "gemm tt" : "gemm tn";
  return a.b.transposed ? "gemm nt" : "gemm nn";
}

void gemm(const Queue& q, const GemmArgs& a) {
  const int64_t out = a.m * a.n * size_of(a.c_dtype);
  record(q, kGemm,
         {.values = {a.m, a.n, a.k, as_int(a.a.dtype), a.accumulate},
          .flops = 2 * a.m * a.n * a.k,
          .bytes = a.m * a.k * size_of(a.a.dtype) + a.k * a.n * size_of(a.b.dtype) +
                   (a.accumulate ? 2 : 1) * out,
          .name = gemm_name(a)},
         [&](const Kernels& k) { k.gemm(q, a); });
}

void linear_gradients(const Queue& q, const LinearGradientsArgs& a) {
  const int64_t dw = a.n * a.m * kF32;
  record(q, kGemm,
         {.values = {a.n, a.m, a.rows, as_int(a.dtype), a.accumulate_dw},
          .flops = 2 * a.n * a.m * a.rows,
          .bytes = a.rows * (a.n + a.m) * size_of(a.dtype) + (a.accumulate_dw ? 2 : 1) * dw,
          .name = "gemm tn, column sums"},
         [&](const Kernels& k) { k.linear_gradients(q, a); });
}

constexpr Kind kAttention{
    .category = "op",
    .name = "attention",
    .fields = {{{"batch"}, {"time"}, {"heads"}, {"kv_heads"}, {"head_dim"}, kDType}},
    .by_values = true};

// `products`: of queries by keys, and others of that size. Half of each is masked if it is causal.
About attention_of(const char* name, const AttentionArgs& a, int64_t products, int64_t arrays) {
  const int64_t scores = a.batch * a.heads * a.time * a.time / (a.causal ? 2 : 1);
  return {
      .values = {a.batch, a.time, a.heads, a.kv_heads, a.head_dim, as_int(a.dtype)},
      .flops = products * 2 * scores * a.head_dim,
      .bytes = arrays * a.batch * a.time * (a.heads + a.kv_heads) * a.head_dim * size_of(a.dtype),
      .name = name};
}

// Reads q, k and v, and writes out.
void attention(const Queue& q, const AttentionArgs& args, void* out, float* lse) {
  record(q, kAttention, attention_of("attention", args, 2, 2),
         [&](const Kernels& k) { k.attention(q, args, out, lse); });
}
// Reads q, k, v, out and dout, and writes dq, dk and dv: as many as four of q and four of k.
void attention_backward(const Queue& q, const AttentionArgs& args, const void* out,
                        const float* lse, const void* dout, void* dq, void* dk, void* dv) {
  record(q, kAttention, attention_of("attention backward", args, 5, 4),
         [&](const Kernels& k) { k.attention_backward(q, args, out, lse, dout, dq, dk, dv); });
}

// ---- optimizers and norms ----

constexpr Kind kMany{"op", "?", {{{"tensors"}, {"elements"}}}};

void adamw(const Queue& q, const AdamWArgs& a) {
  record(q, kElements, elements("adamw", a.n, DType::f32, 7),
         [&](const Kernels& k) { k.adamw(q, a); });
}
void sgd(const Queue& q, const SgdArgs& a) {
  record(q, kElements, elements("sgd", a.n, DType::f32, a.momentum_buffer ? 5 : 3),
         [&](const Kernels& k) { k.sgd(q, a); });
}
// Rows are in memory of the device: the number of elements is that of whole pieces.
void adamw_many(const Queue& q, const AdamWManyArgs& a) {
  record(q, kMany,
         {.values = {a.count, a.pieces * kManyPiece},
          .bytes = a.pieces * kManyPiece * kF32 * 7,
          .name = "adamw"},
         [&](const Kernels& k) { k.adamw_many(q, a); });
}
void sgd_many(const Queue& q, const SgdManyArgs& a) {
  record(q, kMany,
         {.values = {a.count, a.pieces * kManyPiece},
          .bytes = a.pieces * kManyPiece * kF32 * (a.momentum != 0 ? 5 : 3),
          .name = "sgd"},
         [&](const Kernels& k) { k.sgd_many(q, a); });
}
void square_sums_many(const Queue& q, const SquareSumsManyArgs& a) {
  record(q, kMany,
         {.values = {a.count, a.pieces * kSquareBlock},
          .bytes = a.pieces * kSquareBlock * size_of(a.dtype),
          .name = "square_sums"},
         [&](const Kernels& k) { k.square_sums_many(q, a); });
}
void close_step(const Queue& q, const CloseStepArgs& a) {
  record(q, kElements, elements("close_step", a.blocks, DType::f32, 2),
         [&](const Kernels& k) { k.close_step(q, a); });
}

constexpr Kernels kTable{.copy = copy,
                         .fill = fill,
                         .copy_bytes = copy_bytes,
                         .unary = unary,
                         .unary_backward = unary_backward,
                         .binary = binary,
                         .axpby = axpby,
                         .reduce = reduce,
                         .argmax = argmax,
                         .square_sums = square_sums,
                         .square_sums_many = square_sums_many,
                         .gemm = gemm,
                         .sum_rows = sum_rows,
                         .linear_gradients = linear_gradients,
                         .attention = attention,
                         .attention_backward = attention_backward,
                         .softmax = softmax,
                         .softmax_backward = softmax_backward,
                         .layer_norm = layer_norm,
                         .layer_norm_backward = layer_norm_backward,
                         .rms_norm = rms_norm,
                         .rms_norm_backward = rms_norm_backward,
                         .cross_entropy = cross_entropy,
                         .cross_entropy_backward = cross_entropy_backward,
                         .embedding = embedding,
                         .embedding_backward = embedding_backward,
                         .uniform = uniform,
                         .normal = normal,
                         .dropout = dropout,
                         .adamw = adamw,
                         .sgd = sgd,
                         .adamw_many = adamw_many,
                         .sgd_many = sgd_many,
                         .close_step = close_step};

// A new kernel must join the table: without an entry, its call would be that of a null pointer.
constexpr size_t kEntries = 34;
static_assert(sizeof(Kernels) == kEntries * sizeof(void (*)()));

}  // namespace

const Kernels& traced_kernels() { return kTable; }

}  // namespace lockstep
