// Softmax and the cross entropy over it.
#include "core/base/sum_tree.h"
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

int64_t rows_per_piece(int64_t n) { return 16384 / (n + 1) + 1; }

template <typename T>
float row_max(int64_t n, const T* x) {
  Vf largest = splat(-kInfinity);
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    largest = max(load_at(x + i, lanes, -kInfinity), largest);
  });
  return max_lanes(largest);
}

// Sum of exp(x - shift).
template <typename T>
float exp_sum(int64_t n, const T* x, float shift) {
  Vf sum[2] = {};
  int which = 0;
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    sum[which] += vexp(load_at(x + i, lanes, -kInfinity) - shift);
    which ^= 1;
  });
  return sum_lanes(sum[0] + sum[1]);
}

template <typename T>
void softmax_rows(int64_t rows, int64_t n, const T* x, T* y) {
  for_ranges(rows, rows_per_piece(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* in = x + r * n;
      const float shift = row_max(n, in);
      const float scale = 1.0f / exp_sum(n, in, shift);
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        store_at(y + r * n + i, vexp(load_at(in + i, lanes) - shift) * scale, lanes);
      });
    }
  });
}

// dx = y·(dy − Σ y·dy).
template <typename T>
void softmax_backward_rows(int64_t rows, int64_t n, const T* y, const T* dy, T* dx,
                           bool accumulate) {
  for_ranges(rows, rows_per_piece(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *p = y + r * n, *g = dy + r * n;
      Vf dot{};
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        dot += load_at(p + i, lanes) * load_at(g + i, lanes);
      });
      const float mean = sum_lanes(dot);
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        const Vf d = load_at(p + i, lanes) * (load_at(g + i, lanes) - mean);
        T* out = dx + r * n + i;
        store_at(out, accumulate ? load_at(out, lanes) + d : d, lanes);
      });
    }
  });
}

template <typename T>
void cross_entropy_rows(int64_t rows, int64_t classes, const T* logits, const int32_t* targets,
                        int32_t ignore, float* loss, float* lse, int64_t* counted) {
  float* row_loss = scratch_of<float>(Scratch::partial, rows + 1);
  row_loss[0] = 0.0f;
  for_ranges(rows, rows_per_piece(classes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* in = logits + r * classes;
      const float shift = row_max(classes, in);
      lse[r] = shift + __builtin_logf(exp_sum(classes, in, shift));
      row_loss[r] = targets[r] == ignore ? 0.0f : lse[r] - to_float(in[targets[r]]);
    }
  });
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) count += targets[r] != ignore;
  const float total =
      sum_tree::combine(row_loss, rows > 0 ? rows : 1, [](float a, float b) { return a + b; });
  *loss = total / static_cast<float>(count);
  *counted = count;
}

template <typename T>
void cross_entropy_backward_rows(int64_t rows, int64_t classes, const T* logits,
                                 const int32_t* targets, int32_t ignore, const float* lse,
                                 float scale, T* dlogits) {
  for_ranges(rows, rows_per_piece(classes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* in = logits + r * classes;
      T* out = dlogits + r * classes;
      if (targets[r] == ignore) {
        memset(out, 0, static_cast<size_t>(classes) * sizeof(T));
        continue;
      }
      const int64_t target = targets[r];
      const float at_target = (vexp(splat(to_float(in[target]) - lse[r]))[0] - 1.0f) * scale;
      for_vectors(classes, [&](int64_t i, int64_t lanes) {
        store_at(out + i, vexp(load_at(in + i, lanes) - lse[r]) * scale, lanes);
      });
      store_some(out + target, splat(at_target), 1);
    }
  });
}

}  // namespace

void softmax(DType dtype, int64_t rows, int64_t n, const void* x, void* y) {
  if (dtype == DType::f32)
    return softmax_rows(rows, n, static_cast<const float*>(x), static_cast<float*>(y));
  if (dtype != DType::bf16) unsupported_dtype("softmax", dtype);
  softmax_rows(rows, n, static_cast<const Bf16*>(x), static_cast<Bf16*>(y));
}

void softmax_backward(DType dtype, int64_t rows, int64_t n, const void* y, const void* dy, void* dx,
                      bool accumulate) {
  if (dtype == DType::f32)
    return softmax_backward_rows(rows, n, static_cast<const float*>(y),
                                 static_cast<const float*>(dy), static_cast<float*>(dx),
                                 accumulate);
  if (dtype != DType::bf16) unsupported_dtype("softmax_backward", dtype);
  softmax_backward_rows(rows, n, static_cast<const Bf16*>(y), static_cast<const Bf16*>(dy),
                        static_cast<Bf16*>(dx), accumulate);
}

void cross_entropy(DType dtype, int64_t rows, int64_t classes, const void* logits,
                   const int32_t* targets, int32_t ignore, float* loss, float* lse,
                   int64_t* counted) {
  if (dtype == DType::f32)
    return cross_entropy_rows(rows, classes, static_cast<const float*>(logits), targets, ignore,
                              loss, lse, counted);
  if (dtype != DType::bf16) unsupported_dtype("cross_entropy", dtype);
  cross_entropy_rows(rows, classes, static_cast<const Bf16*>(logits), targets, ignore, loss, lse,
                     counted);
}

void cross_entropy_backward(DType dtype, int64_t rows, int64_t classes, const void* logits,
                            const int32_t* targets, int32_t ignore, const float* lse,
                            const int64_t* counted, const float* scale, void* dlogits) {
  const float factor = *counted > 0 ? *scale / static_cast<float>(*counted) : 0.0f;
  if (dtype == DType::f32)
    return cross_entropy_backward_rows(rows, classes, static_cast<const float*>(logits), targets,
                                       ignore, lse, factor, static_cast<float*>(dlogits));
  if (dtype != DType::bf16) unsupported_dtype("cross_entropy_backward", dtype);
  cross_entropy_backward_rows(rows, classes, static_cast<const Bf16*>(logits), targets, ignore, lse,
                              factor, static_cast<Bf16*>(dlogits));
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
