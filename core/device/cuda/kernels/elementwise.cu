// Elementwise kernels over dense arrays, and binary ones over any views. Formulas are those of
// core/device/cpu/isa/elementwise.cpp. A fused multiply-add stands where the CPU has one.
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/walk.h"

namespace lockstep::cuda {
namespace {

constexpr float kSqrtTwoOverPi = 0.79788456080286536f;
constexpr float kGeluCubic = 0.044715f;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float gelu_tanh_inner(float x) {
  return kSqrtTwoOverPi * fmaf(kGeluCubic * x * x, x, x);
}

// The normal distribution's Φ(x) and its density φ(x). Both share one exponential; the fit is
// explained in core/device/cpu/vector_math.h.
struct Normal {
  float cdf, pdf;
};
__device__ __forceinline__ Normal normal_distribution(float x) {
  const float t = fabsf(x);
  const float u = 1.0f / fmaf(t, 0.3f, 1.0f);
  float p = fmaf(u, -0.02061289392f, 0.1123761301f);
  p = fmaf(p, u, -0.2280683432f);
  p = fmaf(p, u, 0.1915828031f);
  p = fmaf(p, u, -0.07924826273f);
  p = fmaf(p, u, 0.09605832477f);
  p = fmaf(p, u, 0.07842540863f);
  p = fmaf(p, u, 0.1102273605f);
  p = fmaf(p, u, 0.1195728368f);
  p = fmaf(p, u, 0.1196866343f);
  const float e = expf(t * t * -0.5f);
  const float tail = e * (u * p);
  return {x < 0.0f ? tail : 1.0f - tail, e * 0.39894228040143268f};
}

template <UnaryOp OP>
__device__ __forceinline__ float value(float x) {
  if constexpr (OP == UnaryOp::neg) return -x;
  if constexpr (OP == UnaryOp::exp) return expf(x);
  if constexpr (OP == UnaryOp::log) return logf(x);
  if constexpr (OP == UnaryOp::sqrt) return sqrtf(x);
  if constexpr (OP == UnaryOp::rsqrt) return 1.0f / sqrtf(x);
  if constexpr (OP == UnaryOp::square) return x * x;
  if constexpr (OP == UnaryOp::abs) return fabsf(x);
  if constexpr (OP == UnaryOp::tanh) return tanhf(x);
  if constexpr (OP == UnaryOp::sigmoid) return sigmoid(x);
  if constexpr (OP == UnaryOp::relu) return x < 0.0f ? 0.0f : x;  // NaN stays NaN
  if constexpr (OP == UnaryOp::silu) return x * sigmoid(x);
  if constexpr (OP == UnaryOp::gelu) return x * normal_distribution(x).cdf;
  if constexpr (OP == UnaryOp::gelu_tanh) return 0.5f * x * (1.0f + tanhf(gelu_tanh_inner(x)));
}

template <UnaryOp OP>
__device__ __forceinline__ float derivative(float x) {
  if constexpr (OP == UnaryOp::neg) return -1.0f;
  if constexpr (OP == UnaryOp::exp) return expf(x);
  if constexpr (OP == UnaryOp::log) return 1.0f / x;
  if constexpr (OP == UnaryOp::sqrt) return 0.5f / sqrtf(x);
  if constexpr (OP == UnaryOp::rsqrt) return -0.5f / (x * sqrtf(x));
  if constexpr (OP == UnaryOp::square) return x + x;
  if constexpr (OP == UnaryOp::abs) return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f);
  if constexpr (OP == UnaryOp::tanh) {
    const float t = tanhf(x);
    return fmaf(-t, t, 1.0f);
  }
  if constexpr (OP == UnaryOp::sigmoid) {
    const float s = sigmoid(x);
    return s * (1.0f - s);
  }
  if constexpr (OP == UnaryOp::relu) return x > 0.0f ? 1.0f : 0.0f;
  if constexpr (OP == UnaryOp::silu) {
    const float s = sigmoid(x);
    return s * fmaf(x, 1.0f - s, 1.0f);
  }
  if constexpr (OP == UnaryOp::gelu) {
    const Normal n = normal_distribution(x);
    return fmaf(x, n.pdf, n.cdf);
  }
  if constexpr (OP == UnaryOp::gelu_tanh) {
    const float t = tanhf(gelu_tanh_inner(x));
    const float slope = kSqrtTwoOverPi * fmaf(3.0f * kGeluCubic * x, x, 1.0f);
    return fmaf(0.5f * x * fmaf(-t, t, 1.0f), slope, 0.5f * (1.0f + t));
  }
}

template <UnaryOp OP, class T>
struct Forward {
  const T* x;
  T* y;
  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> v = load<N>(x + i);
    for (int j = 0; j < N; ++j) v.at[j] = value<OP>(v.at[j]);
    store<N>(y + i, v);
  }
};

template <UnaryOp OP, class T>
struct Backward {
  const T *x, *dy;
  T* dx;
  bool accumulate;
  template <int N>
  __device__ void run(int64_t i) const {
    const Pack<float, N> in = load<N>(x + i);
    Pack<float, N> g = load<N>(dy + i);
    if (accumulate) {
      const Pack<float, N> before = load<N>(dx + i);
      for (int j = 0; j < N; ++j) g.at[j] = fmaf(g.at[j], derivative<OP>(in.at[j]), before.at[j]);
    } else {
      for (int j = 0; j < N; ++j) g.at[j] *= derivative<OP>(in.at[j]);
    }
    store<N>(dx + i, g);
  }
};

template <class T>
struct ScaledSum {
  float alpha, beta;
  const T* x;
  T* y;
  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> v = load<N>(x + i);
    Pack<float, N> before{};
    if (beta != 0.0f) before = load<N>(y + i);
    for (int j = 0; j < N; ++j)
      v.at[j] = beta != 0.0f ? fmaf(alpha, v.at[j], beta * before.at[j]) : alpha * v.at[j];
    store<N>(y + i, v);
  }
};

// Calls f(constant) with `op` as a std::integral_constant.
template <class F>
void with_op(UnaryOp op, const F& f) {
  switch (op) {
#define LOCKSTEP_CASE(name) \
  case UnaryOp::name: return f(std::integral_constant<UnaryOp, UnaryOp::name>{})
    LOCKSTEP_CASE(neg);
    LOCKSTEP_CASE(exp);
    LOCKSTEP_CASE(log);
    LOCKSTEP_CASE(sqrt);
    LOCKSTEP_CASE(rsqrt);
    LOCKSTEP_CASE(square);
    LOCKSTEP_CASE(abs);
    LOCKSTEP_CASE(tanh);
    LOCKSTEP_CASE(sigmoid);
    LOCKSTEP_CASE(relu);
    LOCKSTEP_CASE(silu);
    LOCKSTEP_CASE(gelu);
    LOCKSTEP_CASE(gelu_tanh);
#undef LOCKSTEP_CASE
  }
  throw UsageError(str("[unary] unknown operation ", static_cast<int>(op)));
}

// ---- binary ----

bool is_comparison(BinaryOp op) {
  return op == BinaryOp::equal || op == BinaryOp::less || op == BinaryOp::greater;
}

// Integers wrap around. A device cannot tell the host about a division by zero; it gives 0.
template <class T>
__device__ __forceinline__ T quotient(T x, T y) {
  if constexpr (std::is_integral_v<T>) {
    if (y == 0) return 0;
    // Avoids the overflow of lowest / -1.
    if (std::is_signed_v<T> && y == static_cast<T>(-1))
      return static_cast<T>(std::make_unsigned_t<T>{0} - static_cast<std::make_unsigned_t<T>>(x));
  }
  return static_cast<T>(x / y);
}

template <class T>
struct Binary {
  BinaryOp op;
  void* dst;
  const T *a, *b;
  bool a_repeats, b_repeats;  // the same element along the row

  using C = Compute<T>;
  // The type whose sums, differences and products wrap around.
  using Wrapping = typename std::conditional_t<std::is_integral_v<C> && !std::is_same_v<C, bool>,
                                               std::make_unsigned<C>, std::type_identity<C>>::type;

  template <int N>
  __device__ __forceinline__ static Pack<C, N> operand(const T* p, bool repeats) {
    if (N == 1 || !repeats) return load<N>(p);
    Pack<C, N> values;
    const C value = static_cast<C>(*p);
    for (int j = 0; j < N; ++j) values.at[j] = value;
    return values;
  }

  template <int N>
  __device__ void run(const int64_t (&at)[3]) const {
    const Pack<C, N> left = operand<N>(a + at[1], a_repeats),
                     right = operand<N>(b + at[2], b_repeats);
    const auto compare = [&](auto f) {
      Pack<bool, N> result;
      for (int j = 0; j < N; ++j) result.at[j] = f(left.at[j], right.at[j]);
      store<N>(static_cast<bool*>(dst) + at[0], result);
    };
    const auto compute = [&](auto f) {
      Pack<C, N> result;
      for (int j = 0; j < N; ++j) result.at[j] = static_cast<C>(f(left.at[j], right.at[j]));
      store<N>(static_cast<T*>(dst) + at[0], result);
    };
    using W = Wrapping;
    switch (op) {
      case BinaryOp::add: return compute([](C x, C y) { return W(x) + W(y); });
      case BinaryOp::sub: return compute([](C x, C y) { return W(x) - W(y); });
      case BinaryOp::mul: return compute([](C x, C y) { return W(x) * W(y); });
      case BinaryOp::div: return compute([](C x, C y) { return quotient(x, y); });
      case BinaryOp::maximum: return compute([](C x, C y) { return x != x ? x : (x > y ? x : y); });
      case BinaryOp::minimum: return compute([](C x, C y) { return x != x ? x : (x < y ? x : y); });
      case BinaryOp::equal: return compare([](C x, C y) { return x == y; });
      case BinaryOp::less: return compare([](C x, C y) { return x < y; });
      case BinaryOp::greater: return compare([](C x, C y) { return x > y; });
    }
  }
};

template <class T>
void binary_typed(const Queue& queue, BinaryOp op, const StridedView& dst, const StridedView& a,
                  const StridedView& b) {
  const Walk walk = Walk::of({&dst, &a, &b});
  const bool a_repeats = walk.row_strides[1] == 0, b_repeats = walk.row_strides[2] == 0;
  const Binary<T> f{
      op,        dst.data, static_cast<const T*>(a.data), static_cast<const T*>(b.data),
      a_repeats, b_repeats};
  constexpr int N = kPack<T>;
  const bool dst_packs = is_comparison(op) ? walk.has_packs<N>(0, static_cast<bool*>(dst.data))
                                           : walk.has_packs<N>(0, static_cast<T*>(dst.data));
  if (dst_packs && (a_repeats || walk.has_packs<N>(1, f.a)) &&
      (b_repeats || walk.has_packs<N>(2, f.b)))
    for_views<N>("binary", queue, walk, f);
  else
    for_views<1>("binary", queue, walk, f);
}

}  // namespace

void unary(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  dispatch_float("unary", dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = kPack<T>;
    with_op(op, [&](auto constant) {
      const Forward<constant(), T> f{static_cast<const T*>(x), static_cast<T*>(y)};
      for_elements<N>("unary", queue, n, is_aligned<N>(f.x) && is_aligned<N>(f.y), f);
    });
  });
}

void unary_backward(const Queue& queue, UnaryOp op, DType dtype, int64_t n, const void* x,
                    const void* dy, void* dx, bool accumulate) {
  dispatch_float("unary_backward", dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = kPack<T>;
    with_op(op, [&](auto constant) {
      const Backward<constant(), T> f{static_cast<const T*>(x), static_cast<const T*>(dy),
                                      static_cast<T*>(dx), accumulate};
      for_elements<N>("unary_backward", queue, n,
                      is_aligned<N>(f.x) && is_aligned<N>(f.dy) && is_aligned<N>(f.dx), f);
    });
  });
}

void binary(const Queue& queue, BinaryOp op, const StridedView& dst, const StridedView& a,
            const StridedView& b) {
  check(a.dtype == b.dtype, "[binary] expected operands of one dtype, got ", a.dtype, " and ",
        b.dtype);
  check(dst.dtype == (is_comparison(op) ? DType::boolean : a.dtype), "[binary] the result's dtype ",
        dst.dtype, " does not fit operands of ", a.dtype);
  check(a.dtype != DType::boolean || is_comparison(op), "[binary] no arithmetic on bool");
  // Comparisons of bool are those of its bytes.
  const DType dtype = a.dtype == DType::boolean ? DType::u8 : a.dtype;
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, bool>) binary_typed<T>(queue, op, dst, a, b);
  });
}

void axpby(const Queue& queue, DType dtype, int64_t n, float alpha, const void* x, float beta,
           void* y) {
  dispatch_float("axpby", dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = kPack<T>;
    const ScaledSum<T> f{alpha, beta, static_cast<const T*>(x), static_cast<T*>(y)};
    for_elements<N>("axpby", queue, n, is_aligned<N>(f.x) && is_aligned<N>(f.y), f);
  });
}

}  // namespace lockstep::cuda
