// Elementary functions on vectors, without branches. Errors against the exact value, as tested:
//   vexp ≤ 2 ulp (of the smallest normal number below that), vtanh and vsigmoid ≤ 4 ulp.
#pragma once

#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// 2^n for n in [-126, 127].
LOCKSTEP_INLINE Vf power_of_two(Vi n) { return as_float((n + 127) << 23); }

LOCKSTEP_INLINE Vf vexp(Vf x) {
  // Outside of this range the result is 0 or infinity anyway; NaN passes both comparisons.
  x = x > 89.0f ? splat(89.0f) : x;
  x = x < -104.0f ? splat(-104.0f) : x;
  const Vf shifted = x * 1.44269504088896341f + 12582912.0f;  // adding 1.5·2^23 rounds to an integer
  const Vf n = shifted - 12582912.0f;
  Vf r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723212e-6f;
  Vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // In two steps, because n itself may leave the range of exponents.
  const Vi whole = as_int(shifted) - as_int(splat(12582912.0f));
  const Vi half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);
}

LOCKSTEP_INLINE Vf vsigmoid(Vf x) { return 1.0f / (1.0f + vexp(-x)); }

LOCKSTEP_INLINE Vf vtanh(Vf x) {
  const Vf t = abs(x);
  const Vf z = x * x;
  Vf p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vf small = p * z * x + x;
  const Vf large = with_sign_of(1.0f - 2.0f / (vexp(t + t) + 1.0f), x);
  return t < 0.625f ? small : (x != x ? x : large);
}

// ln(erfc(t)) for t > 0.9 (N. Juffa's coefficients).
LOCKSTEP_INLINE Vf log_erfc(Vf t) {
  const Vf s = t * t;
  Vf r = t * -1.72853470e-5f + 3.83197126e-4f;
  const Vf u = t * -3.88396438e-3f + 2.42546219e-2f;
  r = r * s + u;
  r = r * t - 1.06777877e-1f;
  r = r * t - 6.34846687e-1f;
  r = r * t - 1.28717512e-1f;
  return r * t - t;
}
// erf(a) for |a| <= 0.93.
LOCKSTEP_INLINE Vf small_erf(Vf a) {
  const Vf s = a * a;
  Vf r = s * -5.96761703e-4f + 4.99119423e-3f;
  r = r * s - 2.67681349e-2f;
  r = r * s + 1.12819925e-1f;
  r = r * s - 3.76125336e-1f;
  r = r * s + 1.28379166e-1f;
  return r * a + a;
}

// Φ(x) = (1 + erf(x/√2)) / 2, the normal distribution's; the lower tail is not a difference of near
// numbers: its relative error stays below 2e-4 down to x = -5, where Φ is 3e-7.
LOCKSTEP_INLINE Vf normal_cdf(Vf x) {
  const Vf a = x * 0.70710678118654752f;
  const Vf t = abs(a);
  const Vf tail = vexp(log_erfc(t)) * 0.5f;
  const Vf near = small_erf(a) * 0.5f + 0.5f;
  return t > 0.927734375f ? (a < 0.0f ? tail : 1.0f - tail) : near;
}
// exp(-x²/2)/√(2π).
LOCKSTEP_INLINE Vf normal_pdf(Vf x) { return vexp(x * x * -0.5f) * 0.39894228040143268f; }

// By lanes, through the C library: not on the hot path.
LOCKSTEP_INLINE Vf vlog(Vf x) {
  Vf y = x;
  for (int i = 0; i < kLanes; ++i) y[i] = __builtin_logf(x[i]);
  return y;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
