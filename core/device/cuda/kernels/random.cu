// Random numbers by counter: those of core/device/cpu/isa/random.cpp.
#include "core/base/philox.h"
#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/dispatch.h"

namespace lockstep::cuda {
namespace {

constexpr int kNumbers = 4;  // of one counter

// The key as it is when the kernel runs.
__device__ __forceinline__ RandomKey now(RandomKey key) {
  if (key.device_step) key.step = static_cast<uint32_t>(*key.device_step);
  return key;
}

struct Uniform {
  float low, width;
  __device__ Pack<float, kNumbers> draw(const std::array<uint32_t, 4>& bits) const {
    Pack<float, kNumbers> y;
    for (int j = 0; j < kNumbers; ++j) y.at[j] = fmaf(width, uniform_from_bits(bits[j]), low);
    return y;
  }
};

// The method of Box and Muller: a pair of neighbours shares one radius and angle.
struct Normal {
  float mean, stddev;
  __device__ Pack<float, kNumbers> draw(const std::array<uint32_t, 4>& bits) const {
    Pack<float, kNumbers> y;
    for (int j = 0; j < kNumbers; j += 2) {
      // In (0, 1], so that the logarithm is finite.
      const float unit = uniform_from_bits(bits[j]) + 0x1p-24f;
      const float radius = sqrtf(-2.0f * logf(unit));
      const float angle = 6.28318530717958648f * uniform_from_bits(bits[j + 1]);
      y.at[j] = fmaf(stddev, radius * cosf(angle), mean);
      y.at[j + 1] = fmaf(stddev, radius * sinf(angle), mean);
    }
    return y;
  }
};

// y[i] is number first + i of the stream. Each thread draws the numbers of whole counters.
template <class F>
__global__ void draw_kernel(int64_t n, RandomKey key, int64_t first, int64_t counters, F f,
                            float* y, bool aligned) {
  key = now(key);
  for (int64_t c = thread_number(); c < counters; c += thread_count()) {
    const int64_t counter = first / kNumbers + c;
    const Pack<float, kNumbers> values = f.draw(philox(key, static_cast<uint32_t>(counter)));
    const int64_t at = counter * kNumbers - first;
    if (aligned && at + kNumbers <= n) {
      store<kNumbers>(y + at, values);
    } else {
      for (int j = 0; j < kNumbers; ++j)
        if (at + j >= 0 && at + j < n) y[at + j] = values.at[j];
    }
  }
}

template <class F>
void draw(const char* kernel, const Queue& queue, int64_t n, const RandomKey& key, int64_t first,
          const F& f, float* y) {
  if (n == 0) return;
  const int64_t counters = (first + n - 1) / kNumbers - first / kNumbers + 1;
  const bool aligned = first % kNumbers == 0 && is_aligned<kNumbers>(y);
  launch(kernel, queue, grid_for(counters), Threads::independent, draw_kernel<F>, n, key, first,
         counters, f, y, aligned);
}

template <class T>
struct Dropout {
  float p, keep;
  RandomKey key;
  const T* x;
  T* y;
  bool accumulate;

  // For element i and, with N > 1, the N - 1 after it.
  template <int N>
  __device__ __forceinline__ Pack<float, N> factors(int64_t i) const {
    Pack<float, N> factor;
    const RandomKey stream = now(key);
    if constexpr (N == 1) {
      const auto bits = philox(stream, static_cast<uint32_t>(i / kNumbers));
      const int word = static_cast<int>(i % kNumbers);
      const uint32_t own =
          word < 2 ? (word == 0 ? bits[0] : bits[1]) : (word == 2 ? bits[2] : bits[3]);
      factor.at[0] = uniform_from_bits(own) >= p ? keep : 0.0f;
    } else {
      for (int block = 0; block < N; block += kNumbers) {
        const auto bits = philox(stream, static_cast<uint32_t>((i + block) / kNumbers));
        for (int j = 0; j < kNumbers; ++j)
          factor.at[block + j] = uniform_from_bits(bits[j]) >= p ? keep : 0.0f;
      }
    }
    return factor;
  }

  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> v = load<N>(x + i);
    const Pack<float, N> factor = factors<N>(i);
    for (int j = 0; j < N; ++j) v.at[j] *= factor.at[j];
    if (accumulate) {
      const Pack<float, N> before = load<N>(y + i);
      for (int j = 0; j < N; ++j) v.at[j] = before.at[j] + v.at[j];
    }
    store<N>(y + i, v);
  }
};

}  // namespace

void uniform(const Queue& queue, int64_t n, float low, float high, const RandomKey& key,
             int64_t first, float* y) {
  draw("uniform", queue, n, key, first, Uniform{low, high - low}, y);
}

void normal(const Queue& queue, int64_t n, float mean, float stddev, const RandomKey& key,
            int64_t first, float* y) {
  draw("normal", queue, n, key, first, Normal{mean, stddev}, y);
}

void dropout(const Queue& queue, DType dtype, int64_t n, float p, const RandomKey& key,
             const void* x, void* y, bool accumulate) {
  const float keep = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
  dispatch_float("dropout", dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = kPack<T>;
    const Dropout<T> f{p, keep, key, static_cast<const T*>(x), static_cast<T*>(y), accumulate};
    for_elements<N>("dropout", queue, n, is_aligned<N>(f.x) && is_aligned<N>(f.y), f);
  });
}

}  // namespace lockstep::cuda
