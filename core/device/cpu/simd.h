// Vectors for the kernel sources that are compiled once per instruction set (lockstep_isa_variant
// in CMakeLists.txt). Everything here is in a namespace named after the instruction set, so that
// the linker cannot give code compiled for AVX-512 to a machine without it. For the same reason
// these sources use no templates of the standard library. A test checks that their objects export
// nothing else.
//
// Vf holds kLanes floats. Arithmetic uses GCC's vector extensions. A lane of a full vector and the
// same element in a tail go through the same instructions, so an element's bits do not depend on
// its position.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifndef LOCKSTEP_ISA
#error "compile with -DLOCKSTEP_ISA=generic|avx2|avx512|avx512_bf16 and -DLOCKSTEP_LANES=4|8|16|16"
#endif

// Whether the instruction set multiplies bf16 (AVX512_BF16).
#ifndef LOCKSTEP_BF16_DOT
#define LOCKSTEP_BF16_DOT 0
#endif

namespace lockstep::cpu::LOCKSTEP_ISA {

inline constexpr int kLanes = LOCKSTEP_LANES;

typedef float Vf __attribute__((vector_size(4 * LOCKSTEP_LANES)));
typedef int32_t Vi __attribute__((vector_size(4 * LOCKSTEP_LANES)));
typedef uint32_t Vu __attribute__((vector_size(4 * LOCKSTEP_LANES)));
typedef float HalfVf __attribute__((vector_size(2 * LOCKSTEP_LANES)));
typedef double Vd __attribute__((vector_size(4 * LOCKSTEP_LANES)));  // half as many lanes as Vf
typedef uint16_t Vh __attribute__((vector_size(2 * LOCKSTEP_LANES)));
typedef float Quarter __attribute__((vector_size(16)));

#define LOCKSTEP_INLINE static inline __attribute__((always_inline))
#define LOCKSTEP_MEMBER static __attribute__((always_inline))

// Storage types: float, and Bf16 for bfloat16.
struct Bf16 {
  uint16_t bits;
};

LOCKSTEP_INLINE Vf splat(float x) { return x - Vf{}; }
LOCKSTEP_INLINE Vi splat_int(int32_t x) { return x - Vi{}; }

// Reads a T from the bytes at p, whatever their type and alignment.
template <typename T>
LOCKSTEP_INLINE T read(const void* p) {
  T x;
  memcpy(&x, p, sizeof x);
  return x;
}
LOCKSTEP_INLINE Vf as_float(Vi x) { return read<Vf>(&x); }
LOCKSTEP_INLINE Vi as_int(Vf x) { return read<Vi>(&x); }

LOCKSTEP_INLINE Vf widen(Vh h) {
  const Vu u = __builtin_convertvector(h, Vu) << 16;
  return as_float(reinterpret_cast<const Vi&>(u));
}
// Rounds to nearest even; NaN stays NaN. The processor's own conversion treats subnormal numbers as
// zero.
LOCKSTEP_INLINE Vh narrow(Vf x) {
#if LOCKSTEP_BF16_DOT
  return reinterpret_cast<Vh>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  const Vu u = read<Vu>(&x);
  const Vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Vu quiet = (u >> 16) | 0x40u;
  return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Vh);
#endif
}

LOCKSTEP_INLINE Vf load(const float* p) { return read<Vf>(p); }
LOCKSTEP_INLINE Vf load(const Bf16* p) { return widen(read<Vh>(p)); }
LOCKSTEP_INLINE void store(float* p, Vf v) { memcpy(p, &v, sizeof v); }
LOCKSTEP_INLINE void store(Bf16* p, Vf v) {
  const Vh h = narrow(v);
  memcpy(p, &h, sizeof h);
}
// Load or store the first n lanes. The other lanes are not written, and read as exactly `fill`.
// `fill` is inserted after widening: a Bf16 lane would round a float (a row's mean, for example),
// and it would no longer cancel. AVX-512 uses masks; the others go through memory.
#if LOCKSTEP_LANES == 16
LOCKSTEP_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
LOCKSTEP_INLINE Vf load_some(const float* p, int64_t n, float fill = 0.0f) {
  return reinterpret_cast<Vf>(
      _mm512_mask_loadu_ps(reinterpret_cast<__m512>(splat(fill)), first_lanes(n), p));
}
LOCKSTEP_INLINE Vf load_some(const Bf16* p, int64_t n, float fill = 0.0f) {
  const Vf loaded = widen(reinterpret_cast<Vh>(_mm256_maskz_loadu_epi16(first_lanes(n), p)));
  return reinterpret_cast<Vf>(_mm512_mask_mov_ps(reinterpret_cast<__m512>(splat(fill)),
                                                 first_lanes(n), reinterpret_cast<__m512>(loaded)));
}
LOCKSTEP_INLINE void store_some(float* p, Vf v, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), reinterpret_cast<__m512>(v));
}
LOCKSTEP_INLINE void store_some(Bf16* p, Vf v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), reinterpret_cast<__m256i>(narrow(v)));
}
#else
template <typename T>
LOCKSTEP_INLINE Vf load_some(const T* p, int64_t n, float fill = 0.0f) {
  T stored[kLanes] = {};
  memcpy(stored, p, static_cast<size_t>(n) * sizeof(T));
  float lanes[kLanes], widened[kLanes];
  store(lanes, splat(fill));
  store(widened, load(stored));
  memcpy(lanes, widened, static_cast<size_t>(n) * sizeof(float));
  return load(lanes);
}
template <typename T>
LOCKSTEP_INLINE void store_some(T* p, Vf v, int64_t n) {
  T lanes[kLanes];
  store(lanes, v);
  memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}
#endif

#if LOCKSTEP_BF16_DOT
// The first n elements unchanged, each in the lower half of a lane.
LOCKSTEP_INLINE Vu load_bits(const Bf16* p, int64_t n) {
  return __builtin_convertvector(reinterpret_cast<Vh>(_mm256_maskz_loadu_epi16(first_lanes(n), p)),
                                 Vu);
}
#endif

LOCKSTEP_INLINE float to_float(float x) { return x; }
LOCKSTEP_INLINE float to_float(Bf16 x) {
  const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

LOCKSTEP_INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
LOCKSTEP_INLINE Vf min(Vf a, Vf b) { return a < b ? a : b; }
LOCKSTEP_INLINE Vf abs(Vf x) { return as_float(as_int(x) & 0x7fffffff); }
LOCKSTEP_INLINE Vf with_sign_of(Vf magnitude, Vf sign) {
  return as_float((as_int(magnitude) & 0x7fffffff) | (as_int(sign) & splat_int(INT32_MIN)));
}

LOCKSTEP_INLINE Vf sqrt(Vf x) {
#if LOCKSTEP_LANES == 16
  // Masked with all lanes, because GCC 12 warns about its own header's _mm512_sqrt_ps.
  return reinterpret_cast<Vf>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x)));
#elif LOCKSTEP_LANES == 8
  return reinterpret_cast<Vf>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#else
  return reinterpret_cast<Vf>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#endif
}

// Combine lanes in a fixed tree, halves first.
LOCKSTEP_INLINE float sum_lanes(Vf v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
LOCKSTEP_INLINE double sum_lanes(Vd v) {
  double lane[kLanes / 2];
  memcpy(lane, &v, sizeof v);
  for (int width = kLanes / 4; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
LOCKSTEP_INLINE float max_lanes(Vf v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// Calls body(offset, lanes) for each vector of n elements. lanes == kLanes except for the last.
template <typename F>
LOCKSTEP_INLINE void for_vectors(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}
// Load or store a vector that may be the last, shorter one. The test is loop-invariant and
// disappears after inlining.
template <typename T>
LOCKSTEP_INLINE Vf load_at(const T* p, int64_t lanes, float fill = 0.0f) {
  return lanes == kLanes ? load(p) : load_some(p, lanes, fill);
}
template <typename T>
LOCKSTEP_INLINE void store_at(T* p, Vf v, int64_t lanes) {
  if (lanes == kLanes)
    store(p, v);
  else
    store_some(p, v, lanes);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
