// What the kernels' sources share: C++ types for dtypes, packs of neighbours that move in one
// instruction, and the loop over dense elements.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/device/cuda/launch.h"

namespace lockstep::cuda {

// Calls f(T{}) with the C++ type of a kernel's `dtype`. Throws UsageError that names the kernel
// unless that is f32, bf16 or f16.
template <class F>
void dispatch_float(const char* kernel, DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::bf16) return f(BFloat16{});
  if (dtype == DType::f16) return f(Float16{});
  throw UsageError(str("[", kernel, "] expected f32, bf16 or f16, got ", dtype));
}

// The type in which elements of type T are computed.
template <class T>
using Compute =
    std::conditional_t<std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float, T>;

inline constexpr int kPackBytes = 16;  // the most that one instruction loads or stores

// Elements of a pack of type T. At most 8, so that a pack fits into the registers as floats.
template <class T>
inline constexpr int kPack = std::min<int>(kPackBytes / static_cast<int>(sizeof(T)), 8);

// N neighbours; N is a power of two.
template <class T, int N>
struct alignas(std::min<int>(kPackBytes, N* static_cast<int>(sizeof(T)))) Pack {
  T at[N];
};

// The bytes of a pack as the device's compiler moves them best.
template <int BYTES>
struct [[gnu::may_alias]] alignas(std::min(kPackBytes, BYTES)) Moved {
  std::conditional_t<BYTES % 4 == 0, uint32_t, std::conditional_t<BYTES == 2, uint16_t, uint8_t>>
      at[BYTES % 4 == 0 ? BYTES / 4 : 1];
};

// Whether packs of N elements may be loaded and stored at p.
template <int N, class T>
bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, N>) == 0;
}

// Loads N elements at p, which is aligned for them, as the type that computes.
template <int N, class T>
__device__ __forceinline__ Pack<Compute<T>, N> load(const T* p) {
  const auto stored = std::bit_cast<Pack<T, N>>(*reinterpret_cast<const Moved<sizeof(T) * N>*>(p));
  Pack<Compute<T>, N> values;
  for (int j = 0; j < N; ++j) values.at[j] = static_cast<Compute<T>>(stored.at[j]);
  return values;
}

// Stores N elements at p, which is aligned for them.
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Pack<Compute<T>, N>& values) {
  Pack<T, N> stored;
  for (int j = 0; j < N; ++j) stored.at[j] = static_cast<T>(values.at[j]);
  *reinterpret_cast<Moved<sizeof(T) * N>*>(p) = std::bit_cast<Moved<sizeof(T) * N>>(stored);
}

// The number of this thread in the grid, and of all its threads.
__device__ __forceinline__ int64_t thread_number() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() { return int64_t{gridDim.x} * blockDim.x; }

template <int N, class F>
__global__ void elements_kernel(int64_t packs, int64_t n, F f) {
  for (int64_t i = thread_number(); i < packs; i += thread_count()) f.template run<N>(i * N);
  for (int64_t i = packs * N + thread_number(); i < n; i += thread_count()) f.template run<1>(i);
}

// Computes n elements with a copy of f on the device. f.run<N>(i) computes elements [i, i + N),
// and its packs are aligned. f.run<1>(i) computes element i. Unless `aligned`, all elements go
// through run<1>. No element may depend on another.
template <int N, class F>
void for_elements(const char* kernel, const Queue& queue, int64_t n, bool aligned, const F& f) {
  const int64_t packs = aligned ? n / N : 0;
  launch(kernel, queue, grid_for(std::max(packs, n - packs * N)), Threads::independent,
         elements_kernel<N, F>, packs, n, f);
}

}  // namespace lockstep::cuda
