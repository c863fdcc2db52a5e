// Optimizers pass over memory only once, because memory traffic dominates their time.
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

// x^n, by squaring.
double power(double x, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, x *= x)
    if (n % 2) result *= x;
  return result;
}

}  // namespace

void adamw(const AdamWArgs& a) {
  const float correction1 = static_cast<float>(1.0 - power(a.beta1, a.step));
  const float correction2 = static_cast<float>(1.0 - power(a.beta2, a.step));
  const float step_size = a.lr / correction1;
  const float inverse_root2 = 1.0f / __builtin_sqrtf(correction2);
  const float shrink = a.decoupled_decay ? 1.0f - a.lr * a.weight_decay : 1.0f;
  const float coupled = a.decoupled_decay ? 0.0f : a.weight_decay;
  for_ranges(a.n, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    for_vectors(end - begin, [&](int64_t offset, int64_t lanes) {
      const int64_t i = begin + offset;
      const Vf p = load_at(a.param + i, lanes);
      const Vf g = load_at(a.grad + i, lanes) * a.grad_scale + p * coupled;
      const Vf m = a.beta1 * load_at(a.exp_avg + i, lanes) + (1.0f - a.beta1) * g;
      const Vf v = a.beta2 * load_at(a.exp_avg_sq + i, lanes) + (1.0f - a.beta2) * g * g;
      store_at(a.exp_avg + i, m, lanes);
      store_at(a.exp_avg_sq + i, v, lanes);
      store_at(a.param + i, p * shrink - step_size * m / (sqrt(v) * inverse_root2 + a.eps), lanes);
    });
  });
}

void sgd(const SgdArgs& a) {
  for_ranges(a.n, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    for_vectors(end - begin, [&](int64_t offset, int64_t lanes) {
      const int64_t i = begin + offset;
      const Vf p = load_at(a.param + i, lanes);
      Vf g = load_at(a.grad + i, lanes) * a.grad_scale + a.weight_decay * p;
      if (a.momentum_buffer) {
        const Vf buffer = a.first_step ? g : a.momentum * load_at(a.momentum_buffer + i, lanes) + g;
        store_at(a.momentum_buffer + i, buffer, lanes);
        g = a.nesterov ? g + a.momentum * buffer : buffer;
      }
      store_at(a.param + i, p - a.lr * g, lanes);
    });
  });
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
