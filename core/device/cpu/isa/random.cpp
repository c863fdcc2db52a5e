// Counter-based random numbers: Philox 4x32-10 as in core/base/philox.h, for several counters at
// once.
#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/vector_math.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kBlocks = 16;  // counters processed at once; each gives four numbers
constexpr int64_t kNumbers = 4 * kBlocks;

// bits[4·b + w]: word w of counter first + b.
void philox_blocks(const RandomKey& key, uint32_t first, uint32_t (&bits)[kNumbers]) {
  uint32_t word[4][kBlocks];
  for (int64_t b = 0; b < kBlocks; ++b) {
    word[0][b] = first + static_cast<uint32_t>(b);
    word[1][b] = key.site;
    word[2][b] = key.micro;
    word[3][b] = key.step;
  }
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t b = 0; b < kBlocks; ++b) {
      const uint64_t left = uint64_t{0xD2511F53u} * word[0][b],
                     right = uint64_t{0xCD9E8D57u} * word[2][b];
      word[0][b] = static_cast<uint32_t>(right >> 32) ^ word[1][b] ^ k0;
      word[1][b] = static_cast<uint32_t>(right);
      word[2][b] = static_cast<uint32_t>(left >> 32) ^ word[3][b] ^ k1;
      word[3][b] = static_cast<uint32_t>(left);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int64_t b = 0; b < kBlocks; ++b)
    for (int64_t w = 0; w < 4; ++w) bits[4 * b + w] = word[w][b];
}

// Calls f(element, bits of its aligned group of kNumbers, index in the group) for the elements [0,
// n) at stream positions first + i.
template <typename F>
void for_numbers(int64_t n, const RandomKey& key, int64_t first, const F& f) {
  for_ranges(n, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    uint32_t bits[kNumbers];
    for (int64_t i = begin; i < end;) {
      const int64_t position = first + i;
      const int64_t group = position / kNumbers * kNumbers;
      philox_blocks(key, static_cast<uint32_t>(group / 4), bits);
      const int64_t stop = group + kNumbers - first < end ? group + kNumbers - first : end;
      for (; i < stop; ++i) f(i, bits, first + i - group);
    }
  });
}

// Uniform in [0, 1), with 24 bits.
LOCKSTEP_INLINE float unit(uint32_t bits) {
  return static_cast<float>(static_cast<int32_t>(bits >> 8)) * 0x1p-24f;
}

// Two neighbouring numbers share one radius and one angle.
float box_muller(const uint32_t* bits, int64_t index) {
  const int64_t even = index & ~int64_t{1};
  // The radius uses (0, 1], to keep the logarithm finite.
  const float radius = __builtin_sqrtf(-2.0f * __builtin_logf(unit(bits[even]) + 0x1p-24f));
  const float angle = 6.28318530717958648f * unit(bits[even + 1]);
  return radius * (index % 2 == 0 ? __builtin_cosf(angle) : __builtin_sinf(angle));
}

template <typename T>
void dropout_typed(int64_t n, float p, const RandomKey& key, const T* x, T* y, bool accumulate) {
  const float keep = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
  for_ranges(n, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    uint32_t bits[kNumbers];
    float factor[kNumbers];
    for (int64_t i = begin; i < end; i += kNumbers) {  // begin is a multiple of kNumbers
      philox_blocks(key, static_cast<uint32_t>(i / 4), bits);
      for (int64_t j = 0; j < kNumbers; ++j) factor[j] = unit(bits[j]) >= p ? keep : 0.0f;
      for_vectors(end - i < kNumbers ? end - i : kNumbers, [&](int64_t j, int64_t lanes) {
        Vf v = load_at(x + i + j, lanes) * load_at(factor + j, lanes);
        if (accumulate) v = load_at(y + i + j, lanes) + v;
        store_at(y + i + j, v, lanes);
      });
    }
  });
}

}  // namespace

void uniform(int64_t n, float low, float high, const RandomKey& key, int64_t first, float* y) {
  for_numbers(n, key, first, [&](int64_t i, const uint32_t* bits, int64_t at) {
    y[i] = low + (high - low) * unit(bits[at]);
  });
}

void normal(int64_t n, float mean, float stddev, const RandomKey& key, int64_t first, float* y) {
  for_numbers(n, key, first, [&](int64_t i, const uint32_t* bits, int64_t at) {
    y[i] = mean + stddev * box_muller(bits, at);
  });
}

void dropout(DType dtype, int64_t n, float p, const RandomKey& key, const void* x, void* y,
             bool accumulate) {
  if (dtype == DType::f32)
    return dropout_typed(n, p, key, static_cast<const float*>(x), static_cast<float*>(y),
                         accumulate);
  if (dtype != DType::bf16) unsupported_dtype("dropout", dtype);
  dropout_typed(n, p, key, static_cast<const Bf16*>(x), static_cast<Bf16*>(y), accumulate);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
