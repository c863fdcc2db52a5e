// Elementary functions on vectors, without branches. Tested errors against the exact value:
// - vexp: 2 ulp; below the smallest normal number, 2 ulp of that number
// - vtanh and vsigmoid: 4 ulp
#pragma once

#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

#if LOCKSTEP_LANES != 16
// 2^n for n in [-126, 127].
LOCKSTEP_INLINE Vf power_of_two(Vi n) { return as_float((n + 127) << 23); }
#endif

LOCKSTEP_INLINE Vf vexp(Vf x) {
  // Outside of this range the result is 0 or infinity anyway. NaN passes both comparisons.
  x = x > 89.0f ? splat(89.0f) : x;
  x = x < -104.0f ? splat(-104.0f) : x;
  // Adding 1.5·2^23 rounds to an integer.
  const Vf shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vf n = shifted - 12582912.0f;
  Vf r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723212e-6f;
  Vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if LOCKSTEP_LANES == 16
  return reinterpret_cast<Vf>(
      _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  // Two steps, because n itself may leave the range of exponents.
  const Vi whole = as_int(shifted) - as_int(splat(12582912.0f));
  const Vi half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);
#endif
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

// The normal distribution's Φ(x) = (1 + erf(x/√2)) / 2 and its density φ(x) = exp(-x²/2)/√(2π).
// Both share one exponential: for t ≥ 0, Φ(−t) = exp(-t²/2)·u·P(u) with u = 1/(1 + 0.3·t). P is
// fitted to a relative error of 4e-9 up to t = 14, where Φ(−t) leaves f32. So the lower tail is not
// a difference of close numbers.
struct Normal {
  Vf cdf, pdf;
};
LOCKSTEP_INLINE Normal normal_distribution(Vf x) {
  const Vf t = abs(x);
  const Vf u = 1.0f / (t * 0.3f + 1.0f);
  Vf p = u * -0.02061289392f + 0.1123761301f;
  p = p * u - 0.2280683432f;
  p = p * u + 0.1915828031f;
  p = p * u - 0.07924826273f;
  p = p * u + 0.09605832477f;
  p = p * u + 0.07842540863f;
  p = p * u + 0.1102273605f;
  p = p * u + 0.1195728368f;
  p = p * u + 0.1196866343f;
  const Vf e = vexp(t * t * -0.5f);
  const Vf tail = e * (u * p);
  return {x < 0.0f ? tail : 1.0f - tail, e * 0.39894228040143268f};
}

// Lane by lane, through the C library: not on the hot path.
LOCKSTEP_INLINE Vf vlog(Vf x) {
  Vf y = x;
  for (int i = 0; i < kLanes; ++i) y[i] = __builtin_logf(x[i]);
  return y;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
