// Optimizers in one pass over the memory. Each element goes through the operations of
// core/device/cpu/isa/optimizer.cpp, with fused multiply-adds where the CPU has them.
#include <cmath>

#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/dispatch.h"

namespace lockstep::cuda {
namespace {

constexpr int kFloats = kPack<float>;

// x^n, by squaring, as on a CPU.
double power(double x, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, x *= x)
    if (n % 2) result *= x;
  return result;
}

struct AdamW {
  float* param;
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  float beta1, beta2, eps, grad_scale;
  float shrink, coupled;  // weight decay: of the parameter, and through the gradient
  float step_size, inverse_root2;

  explicit AdamW(const AdamWArgs& a)
      : param(a.param),
        grad(a.grad),
        exp_avg(a.exp_avg),
        exp_avg_sq(a.exp_avg_sq),
        beta1(a.beta1),
        beta2(a.beta2),
        eps(a.eps),
        grad_scale(a.grad_scale),
        shrink(a.decoupled_decay ? 1.0f - a.lr * a.weight_decay : 1.0f),
        coupled(a.decoupled_decay ? 0.0f : a.weight_decay),
        step_size(a.lr / static_cast<float>(1.0 - power(a.beta1, a.step))),
        inverse_root2(1.0f / std::sqrt(static_cast<float>(1.0 - power(a.beta2, a.step)))) {}

  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> p = load<N>(param + i), m = load<N>(exp_avg + i), v = load<N>(exp_avg_sq + i);
    const Pack<float, N> gradient = load<N>(grad + i);
    for (int j = 0; j < N; ++j) {
      const float g = fmaf(gradient.at[j], grad_scale, p.at[j] * coupled);
      m.at[j] = fmaf(beta1, m.at[j], (1.0f - beta1) * g);
      v.at[j] = fmaf(beta2, v.at[j], (1.0f - beta2) * g * g);
      const float divisor = fmaf(sqrtf(v.at[j]), inverse_root2, eps);
      p.at[j] = fmaf(p.at[j], shrink, -(step_size * m.at[j] / divisor));
    }
    store<N>(exp_avg + i, m);
    store<N>(exp_avg_sq + i, v);
    store<N>(param + i, p);
  }
};

struct Sgd {
  float* param;
  const float* grad;
  float* buffer;
  float lr, momentum, weight_decay, grad_scale;
  bool nesterov, first_step;

  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> p = load<N>(param + i), g = load<N>(grad + i), b{};
    for (int j = 0; j < N; ++j) g.at[j] = fmaf(g.at[j], grad_scale, weight_decay * p.at[j]);
    if (buffer) {
      if (!first_step) b = load<N>(buffer + i);
      for (int j = 0; j < N; ++j) {
        b.at[j] = first_step ? g.at[j] : fmaf(momentum, b.at[j], g.at[j]);
        g.at[j] = nesterov ? fmaf(momentum, b.at[j], g.at[j]) : b.at[j];
      }
      store<N>(buffer + i, b);
    }
    for (int j = 0; j < N; ++j) p.at[j] = fmaf(-lr, g.at[j], p.at[j]);
    store<N>(param + i, p);
  }
};

}  // namespace

void adamw(const Queue& queue, const AdamWArgs& args) {
  const AdamW f(args);
  const bool aligned = is_aligned<kFloats>(f.param) && is_aligned<kFloats>(f.grad) &&
                       is_aligned<kFloats>(f.exp_avg) && is_aligned<kFloats>(f.exp_avg_sq);
  for_elements<kFloats>("adamw", queue, args.n, aligned, f);
}

void sgd(const Queue& queue, const SgdArgs& args) {
  const Sgd f{args.param,      args.grad,     args.momentum_buffer,
              args.lr,         args.momentum, args.weight_decay,
              args.grad_scale, args.nesterov, args.first_step};
  const bool aligned = is_aligned<kFloats>(f.param) && is_aligned<kFloats>(f.grad) &&
                       is_aligned<kFloats>(f.buffer);  // no buffer is aligned, too
  for_elements<kFloats>("sgd", queue, args.n, aligned, f);
}

}  // namespace lockstep::cuda
