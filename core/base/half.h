// 16-bit floating point for storage. Arithmetic happens in float. Conversion rounds to nearest,
// ties to even. On a CUDA device it is one instruction, and a NaN loses its payload.
#pragma once

#include <bit>
#include <cstdint>

// Marks functions that kernels of a CUDA device use, too.
#ifdef __CUDACC__
#define LOCKSTEP_HOST_DEVICE __host__ __device__
#else
#define LOCKSTEP_HOST_DEVICE
#endif

namespace lockstep {

// bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  LOCKSTEP_HOST_DEVICE explicit BFloat16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    // A NaN must stay a NaN: rounding could carry it into infinity.
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(nan ? ((u >> 16) | 0x40u) : rounded);
#endif
  }
  LOCKSTEP_HOST_DEVICE operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE binary16.
struct Float16 {
  uint16_t bits = 0;

  Float16() = default;
  // nvcc knows _Float16 in host code only.
  LOCKSTEP_HOST_DEVICE explicit Float16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    bits = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
#endif
  }
  LOCKSTEP_HOST_DEVICE operator float() const {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    return static_cast<float>(std::bit_cast<_Float16>(bits));
#endif
  }
};

}  // namespace lockstep
