// Layer norm and RMS norm. The gradients of weight and bias are sums over fixed blocks of rows,
// added in order.
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kRows = 64;       // minimum number of rows in a block
constexpr int64_t kMaxBlocks = 64;  // bounds the memory for partial sums

struct Blocks {
  int64_t rows, count;
};
Blocks blocks_of(int64_t rows) {
  const int64_t even = (rows + kMaxBlocks - 1) / kMaxBlocks;
  const int64_t each = even > kRows ? even : kRows;
  return {each, (rows + each - 1) / each};
}

LOCKSTEP_INLINE float inverse_root(float x) { return 1.0f / sqrt(splat(x))[0]; }

// Makes two passes over the row, which is in the first cache, to avoid cancellation.
template <typename T>
void layer_norm_row(int64_t n, float eps, const T* x, const float* weight, const float* bias, T* y,
                    float* mean, float* rstd) {
  Vf sum{};
  for_vectors(n, [&](int64_t i, int64_t lanes) { sum += load_at(x + i, lanes); });
  const float m = sum_lanes(sum) / static_cast<float>(n);
  Vf square{};
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const Vf d = load_at(x + i, lanes, m) - m;
    square += d * d;
  });
  const float s = inverse_root(sum_lanes(square) / static_cast<float>(n) + eps);
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    Vf v = (load_at(x + i, lanes) - m) * s;
    if (weight) v = v * load_at(weight + i, lanes);
    if (bias) v = v + load_at(bias + i, lanes);
    store_at(y + i, v, lanes);
  });
  *mean = m;
  *rstd = s;
}

template <typename T>
void rms_norm_row(int64_t n, float eps, const T* x, const float* weight, T* y, float* rstd) {
  Vf square{};
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const Vf v = load_at(x + i, lanes);
    square += v * v;
  });
  const float s = inverse_root(sum_lanes(square) / static_cast<float>(n) + eps);
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    Vf v = load_at(x + i, lanes) * s;
    if (weight) v = v * load_at(weight + i, lanes);
    store_at(y + i, v, lanes);
  });
  *rstd = s;
}

// One row of either norm's backward pass. With x̂ = (x − mean)·rstd and g = dy·weight:
//   layer norm: dx = rstd·(g − avg(g) − x̂·avg(g·x̂))
//   RMS norm:   the same without avg(g), and mean 0
template <bool CENTRED, typename T>
void norm_backward_row(int64_t n, const T* x, const float* weight, float mean, float rstd,
                       const T* dy, T* dx, bool accumulate, float* dweight, float* dbias) {
  Vf sum{}, dot{};
  const auto normalised = [&](int64_t i, int64_t lanes) {
    return (load_at(x + i, lanes) - mean) * rstd;
  };
  const auto incoming = [&](int64_t i, int64_t lanes) {
    const Vf d = load_at(dy + i, lanes);
    return weight ? d * load_at(weight + i, lanes) : d;
  };
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const Vf xhat = normalised(i, lanes), g = incoming(i, lanes);
    if (CENTRED) sum += g;
    dot += g * xhat;  // g is 0 beyond the row's end
    const Vf d = load_at(dy + i, lanes);
    if (dweight) store_at(dweight + i, load_at(dweight + i, lanes) + d * xhat, lanes);
    if (dbias) store_at(dbias + i, load_at(dbias + i, lanes) + d, lanes);
  });
  const float average = CENTRED ? sum_lanes(sum) / static_cast<float>(n) : 0.0f;
  const float projection = sum_lanes(dot) / static_cast<float>(n);
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    Vf d = rstd * (incoming(i, lanes) - average - normalised(i, lanes) * projection);
    if (accumulate) d = load_at(dx + i, lanes) + d;
    store_at(dx + i, d, lanes);
  });
}

// out [n] (+)= the sum of `count` vectors at distance `stride`.
void add_partials(int64_t n, int64_t count, const float* partial, int64_t stride, float* out,
                  bool accumulate) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    Vf sum = load_at(partial + i, lanes);
    for (int64_t b = 1; b < count; ++b) sum += load_at(partial + b * stride + i, lanes);
    store_at(out + i, accumulate ? load_at(out + i, lanes) + sum : sum, lanes);
  });
}

template <bool CENTRED, typename T>
void norm_backward(int64_t rows, int64_t n, const T* x, const float* weight, const float* mean,
                   const float* rstd, const T* dy, T* dx, bool accumulate_dx, float* dweight,
                   bool accumulate_dweight, float* dbias, bool accumulate_dbias) {
  const Blocks blocks = blocks_of(rows);
  float* partial = scratch_of<float>(Scratch::partial, (blocks.count + 1) * 2 * n);
  memset(partial, 0, static_cast<size_t>((blocks.count + 1) * 2 * n) * sizeof(float));
  for_pieces(blocks.count, [&](int64_t b) {
    float* dw = partial + b * 2 * n;
    const int64_t end = (b + 1) * blocks.rows < rows ? (b + 1) * blocks.rows : rows;
    for (int64_t r = b * blocks.rows; r < end; ++r)
      norm_backward_row<CENTRED>(n, x + r * n, weight, CENTRED ? mean[r] : 0.0f, rstd[r],
                                 dy + r * n, dx + r * n, accumulate_dx, dweight ? dw : nullptr,
                                 dbias ? dw + n : nullptr);
  });
  if (dweight) add_partials(n, blocks.count, partial, 2 * n, dweight, accumulate_dweight);
  if (dbias) add_partials(n, blocks.count, partial + n, 2 * n, dbias, accumulate_dbias);
}

template <typename F>
void each_row(int64_t rows, int64_t n, const F& f) {
  for_ranges(rows, kElementwiseGrain / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r);
  });
}

template <typename T>
void layer_norm_typed(int64_t rows, int64_t n, float eps, const T* x, const float* weight,
                      const float* bias, T* y, float* mean, float* rstd) {
  each_row(rows, n, [&](int64_t r) {
    layer_norm_row(n, eps, x + r * n, weight, bias, y + r * n, mean + r, rstd + r);
  });
}
template <typename T>
void rms_norm_typed(int64_t rows, int64_t n, float eps, const T* x, const float* weight, T* y,
                    float* rstd) {
  each_row(rows, n,
           [&](int64_t r) { rms_norm_row(n, eps, x + r * n, weight, y + r * n, rstd + r); });
}

}  // namespace

void layer_norm(DType dtype, int64_t rows, int64_t n, float eps, const void* x, const float* weight,
                const float* bias, void* y, float* mean, float* rstd) {
  if (dtype == DType::f32)
    return layer_norm_typed(rows, n, eps, static_cast<const float*>(x), weight, bias,
                            static_cast<float*>(y), mean, rstd);
  if (dtype != DType::bf16) unsupported_dtype("layer_norm", dtype);
  layer_norm_typed(rows, n, eps, static_cast<const Bf16*>(x), weight, bias, static_cast<Bf16*>(y),
                   mean, rstd);
}

void layer_norm_backward(DType dtype, int64_t rows, int64_t n, const void* x, const float* weight,
                         const float* mean, float* rstd, const void* dy, void* dx,
                         bool accumulate_dx, float* dweight, bool accumulate_dweight, float* dbias,
                         bool accumulate_dbias) {
  if (dtype == DType::f32)
    return norm_backward<true>(rows, n, static_cast<const float*>(x), weight, mean, rstd,
                               static_cast<const float*>(dy), static_cast<float*>(dx),
                               accumulate_dx, dweight, accumulate_dweight, dbias, accumulate_dbias);
  if (dtype != DType::bf16) unsupported_dtype("layer_norm_backward", dtype);
  norm_backward<true>(rows, n, static_cast<const Bf16*>(x), weight, mean, rstd,
                      static_cast<const Bf16*>(dy), static_cast<Bf16*>(dx), accumulate_dx, dweight,
                      accumulate_dweight, dbias, accumulate_dbias);
}

void rms_norm(DType dtype, int64_t rows, int64_t n, float eps, const void* x, const float* weight,
              void* y, float* rstd) {
  if (dtype == DType::f32)
    return rms_norm_typed(rows, n, eps, static_cast<const float*>(x), weight,
                          static_cast<float*>(y), rstd);
  if (dtype != DType::bf16) unsupported_dtype("rms_norm", dtype);
  rms_norm_typed(rows, n, eps, static_cast<const Bf16*>(x), weight, static_cast<Bf16*>(y), rstd);
}

void rms_norm_backward(DType dtype, int64_t rows, int64_t n, const void* x, const float* weight,
                       float* rstd, const void* dy, void* dx, bool accumulate_dx, float* dweight,
                       bool accumulate_dweight) {
  if (dtype == DType::f32)
    return norm_backward<false>(rows, n, static_cast<const float*>(x), weight, nullptr, rstd,
                                static_cast<const float*>(dy), static_cast<float*>(dx),
                                accumulate_dx, dweight, accumulate_dweight, nullptr, false);
  if (dtype != DType::bf16) unsupported_dtype("rms_norm_backward", dtype);
  norm_backward<false>(rows, n, static_cast<const Bf16*>(x), weight, nullptr, rstd,
                       static_cast<const Bf16*>(dy), static_cast<Bf16*>(dx), accumulate_dx, dweight,
                       accumulate_dweight, nullptr, false);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
