#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr float kSqrtTwoOverPi = 0.79788456080286536f;
constexpr float kGeluCubic = 0.044715f;

LOCKSTEP_INLINE Vf gelu_tanh_inner(Vf x) { return kSqrtTwoOverPi * (x + kGeluCubic * x * x * x); }

template <UnaryOp OP>
LOCKSTEP_INLINE Vf value(Vf x) {
  if constexpr (OP == UnaryOp::neg) return -x;
  if constexpr (OP == UnaryOp::exp) return vexp(x);
  if constexpr (OP == UnaryOp::log) return vlog(x);
  if constexpr (OP == UnaryOp::sqrt) return sqrt(x);
  if constexpr (OP == UnaryOp::rsqrt) return 1.0f / sqrt(x);
  if constexpr (OP == UnaryOp::square) return x * x;
  if constexpr (OP == UnaryOp::abs) return abs(x);
  if constexpr (OP == UnaryOp::tanh) return vtanh(x);
  if constexpr (OP == UnaryOp::sigmoid) return vsigmoid(x);
  if constexpr (OP == UnaryOp::relu) return x < 0.0f ? Vf{} : x;  // NaN stays NaN
  if constexpr (OP == UnaryOp::silu) return x * vsigmoid(x);
  if constexpr (OP == UnaryOp::gelu) return x * normal_distribution(x).cdf;
  if constexpr (OP == UnaryOp::gelu_tanh) return 0.5f * x * (1.0f + vtanh(gelu_tanh_inner(x)));
}

template <UnaryOp OP>
LOCKSTEP_INLINE Vf derivative(Vf x) {
  if constexpr (OP == UnaryOp::neg) return splat(-1.0f);
  if constexpr (OP == UnaryOp::exp) return vexp(x);
  if constexpr (OP == UnaryOp::log) return 1.0f / x;
  if constexpr (OP == UnaryOp::sqrt) return 0.5f / sqrt(x);
  if constexpr (OP == UnaryOp::rsqrt) return -0.5f / (x * sqrt(x));
  if constexpr (OP == UnaryOp::square) return x + x;
  if constexpr (OP == UnaryOp::abs)
    return x > 0.0f ? splat(1.0f) : (x < 0.0f ? splat(-1.0f) : Vf{});
  if constexpr (OP == UnaryOp::tanh) {
    const Vf t = vtanh(x);
    return 1.0f - t * t;
  }
  if constexpr (OP == UnaryOp::sigmoid) {
    const Vf s = vsigmoid(x);
    return s * (1.0f - s);
  }
  if constexpr (OP == UnaryOp::relu) return x > 0.0f ? splat(1.0f) : Vf{};
  if constexpr (OP == UnaryOp::silu) {
    const Vf s = vsigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
  if constexpr (OP == UnaryOp::gelu) {
    const Normal n = normal_distribution(x);
    return n.cdf + x * n.pdf;
  }
  if constexpr (OP == UnaryOp::gelu_tanh) {
    const Vf t = vtanh(gelu_tanh_inner(x));
    const Vf slope = kSqrtTwoOverPi * (1.0f + 3.0f * kGeluCubic * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope;
  }
}

// Computes y = f(offset, lanes) over n elements, in pieces.
template <typename T, typename F>
void produce(int64_t n, T* y, const F& f) {
  for_ranges(n, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    for_vectors(end - begin, [&](int64_t i, int64_t lanes) {
      store_at(y + begin + i, f(begin + i, lanes), lanes);
    });
  });
}

template <typename T>
struct Forward {
  int64_t n;
  const T* x;
  T* y;
  template <UnaryOp OP>
  void run() const {
    produce(n, y, [&](int64_t i, int64_t lanes) { return value<OP>(load_at(x + i, lanes)); });
  }
};

template <typename T>
struct Backward {
  int64_t n;
  const T *x, *dy;
  T* dx;
  bool accumulate;
  template <UnaryOp OP>
  void run() const {
    produce(n, dx, [&](int64_t i, int64_t lanes) {
      const Vf g = load_at(dy + i, lanes) * derivative<OP>(load_at(x + i, lanes));
      return accumulate ? load_at(dx + i, lanes) + g : g;
    });
  }
};

template <typename Task>
void with_op(UnaryOp op, const Task& task) {
  switch (op) {
    case UnaryOp::neg: return task.template run<UnaryOp::neg>();
    case UnaryOp::exp: return task.template run<UnaryOp::exp>();
    case UnaryOp::log: return task.template run<UnaryOp::log>();
    case UnaryOp::sqrt: return task.template run<UnaryOp::sqrt>();
    case UnaryOp::rsqrt: return task.template run<UnaryOp::rsqrt>();
    case UnaryOp::square: return task.template run<UnaryOp::square>();
    case UnaryOp::abs: return task.template run<UnaryOp::abs>();
    case UnaryOp::tanh: return task.template run<UnaryOp::tanh>();
    case UnaryOp::sigmoid: return task.template run<UnaryOp::sigmoid>();
    case UnaryOp::relu: return task.template run<UnaryOp::relu>();
    case UnaryOp::silu: return task.template run<UnaryOp::silu>();
    case UnaryOp::gelu: return task.template run<UnaryOp::gelu>();
    case UnaryOp::gelu_tanh: return task.template run<UnaryOp::gelu_tanh>();
  }
}

template <typename T>
void scaled_sum(int64_t n, float alpha, const T* x, float beta, T* y) {
  if (beta == 0.0f)
    return produce(n, y, [&](int64_t i, int64_t lanes) { return alpha * load_at(x + i, lanes); });
  produce(n, y, [&](int64_t i, int64_t lanes) {
    return alpha * load_at(x + i, lanes) + beta * load_at(y + i, lanes);
  });
}

template <typename A, typename B>
void convert(int64_t n, A* dst, const B* src) {
  for_vectors(n,
              [&](int64_t i, int64_t lanes) { store_at(dst + i, load_at(src + i, lanes), lanes); });
}

template <typename T>
LOCKSTEP_INLINE Vf load_strided(const T* p, int64_t stride, int64_t i, int64_t lanes) {
  return stride == 0 ? splat(to_float(*p)) : load_at(p + i, lanes);
}

// Stores the result of a comparison as bytes 0 and 1.
LOCKSTEP_INLINE void store_bool(uint8_t* dst, Vi mask, int64_t lanes) {
  for (int64_t l = 0; l < lanes; ++l) dst[l] = mask[l] != 0;
}

template <typename T>
void binary_typed(BinaryOp op, int64_t n, void* dst, const T* a, int64_t sa, const T* b,
                  int64_t sb) {
  const auto arithmetic = [&](auto f) {
    T* y = static_cast<T*>(dst);
    for_vectors(n, [&](int64_t i, int64_t lanes) {
      store_at(y + i, f(load_strided(a, sa, i, lanes), load_strided(b, sb, i, lanes)), lanes);
    });
  };
  const auto comparison = [&](auto f) {
    uint8_t* y = static_cast<uint8_t*>(dst);
    for_vectors(n, [&](int64_t i, int64_t lanes) {
      store_bool(y + i, f(load_strided(a, sa, i, lanes), load_strided(b, sb, i, lanes)), lanes);
    });
  };
  switch (op) {
    case BinaryOp::add: return arithmetic([](Vf x, Vf y) { return x + y; });
    case BinaryOp::sub: return arithmetic([](Vf x, Vf y) { return x - y; });
    case BinaryOp::mul: return arithmetic([](Vf x, Vf y) { return x * y; });
    case BinaryOp::div: return arithmetic([](Vf x, Vf y) { return x / y; });
    case BinaryOp::maximum:
      return arithmetic([](Vf x, Vf y) { return x != x ? x : (x > y ? x : y); });
    case BinaryOp::minimum:
      return arithmetic([](Vf x, Vf y) { return x != x ? x : (x < y ? x : y); });
    case BinaryOp::equal: return comparison([](Vf x, Vf y) { return Vi(x == y); });
    case BinaryOp::less: return comparison([](Vf x, Vf y) { return Vi(x < y); });
    case BinaryOp::greater: return comparison([](Vf x, Vf y) { return Vi(x > y); });
  }
}

}  // namespace

void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  if (dtype == DType::f32)
    return with_op(op, Forward<float>{n, static_cast<const float*>(x), static_cast<float*>(y)});
  if (dtype != DType::bf16) unsupported_dtype("unary", dtype);
  with_op(op, Forward<Bf16>{n, static_cast<const Bf16*>(x), static_cast<Bf16*>(y)});
}

void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* dy, void* dx,
                    bool accumulate) {
  if (dtype == DType::f32)
    return with_op(op,
                   Backward<float>{n, static_cast<const float*>(x), static_cast<const float*>(dy),
                                   static_cast<float*>(dx), accumulate});
  if (dtype != DType::bf16) unsupported_dtype("unary_backward", dtype);
  with_op(op, Backward<Bf16>{n, static_cast<const Bf16*>(x), static_cast<const Bf16*>(dy),
                             static_cast<Bf16*>(dx), accumulate});
}

void axpby(DType dtype, int64_t n, float alpha, const void* x, float beta, void* y) {
  if (dtype == DType::f32)
    return scaled_sum(n, alpha, static_cast<const float*>(x), beta, static_cast<float*>(y));
  if (dtype != DType::bf16) unsupported_dtype("axpby", dtype);
  scaled_sum(n, alpha, static_cast<const Bf16*>(x), beta, static_cast<Bf16*>(y));
}

void convert_row(DType to, DType from, int64_t n, void* dst, const void* src) {
  if (to == from) {
    memcpy(dst, src, static_cast<size_t>(n * size_of(to)));
  } else if (to == DType::bf16 && from == DType::f32) {
    convert(n, static_cast<Bf16*>(dst), static_cast<const float*>(src));
  } else if (to == DType::f32 && from == DType::bf16) {
    convert(n, static_cast<float*>(dst), static_cast<const Bf16*>(src));
  } else {
    unsupported_dtype("convert_row", from);
  }
}

void binary_row(BinaryOp op, DType dtype, int64_t n, void* dst, const void* a, int64_t a_stride,
                const void* b, int64_t b_stride) {
  if (dtype == DType::f32)
    return binary_typed(op, n, dst, static_cast<const float*>(a), a_stride,
                        static_cast<const float*>(b), b_stride);
  if (dtype != DType::bf16) unsupported_dtype("binary", dtype);
  binary_typed(op, n, dst, static_cast<const Bf16*>(a), a_stride, static_cast<const Bf16*>(b),
               b_stride);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
