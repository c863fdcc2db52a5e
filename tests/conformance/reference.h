// What the conformance suite compares with: inputs that every rank can compute for every other, and
// results computed plainly.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "comm/process_group.h"
#include "core/tensor/tensor.h"

namespace lockstep::test {

// Element i of rank (or leaf) r: values of very different sizes, so that every order of summation
// gives other bits.
template <typename T>
T value_of(int64_t r, int64_t i) {
  uint64_t h = (static_cast<uint64_t>(r) << 40) ^ static_cast<uint64_t>(i) ^ 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  h ^= h >> 31;
  if constexpr (std::is_same_v<T, bool>) {
    return (h & 1) != 0;
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(h % 200);
  } else {
    const float mantissa = static_cast<float>(static_cast<int64_t>(h % 2001) - 1000) / 1000;
    return static_cast<T>(std::ldexp(mantissa, static_cast<int>((h >> 32) % 9) - 4));
  }
}

template <typename T>
std::vector<T> values(int64_t r, int64_t n) {
  std::vector<T> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i)] = value_of<T>(r, i);
  return v;
}

// What values are carried in while they are summed.
template <typename T>
using Wide = std::conditional_t<
    std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float,
    std::conditional_t<std::is_same_v<T, int32_t> || std::is_same_v<T, int64_t>, uint64_t, T>>;

template <typename T>
Wide<T> combine(comm::ReduceOp op, Wide<T> a, Wide<T> b) {
  using comm::ReduceOp;
  if constexpr (std::is_same_v<T, bool>) {
    if (op == ReduceOp::bxor) return a != b;
    return op == ReduceOp::sum || op == ReduceOp::max || op == ReduceOp::bor ? a || b : a && b;
  } else {
    switch (op) {
      case ReduceOp::sum: return static_cast<Wide<T>>(a + b);
      case ReduceOp::product: return static_cast<Wide<T>>(a * b);
      case ReduceOp::min: return a < b ? a : b;
      case ReduceOp::max: return a > b ? a : b;
      default: break;
    }
    if constexpr (std::is_integral_v<T>) {
      if (op == ReduceOp::band) return a & b;
      if (op == ReduceOp::bor) return a | b;
      return a ^ b;
    }
    return a;
  }
}

// Element i over leaves [first, first + count) in the fixed tree: a node splits at the largest
// power of two below its size.
template <typename T>
Wide<T> tree_value(comm::ReduceOp op, int64_t first, int64_t count, int64_t i) {
  if (count == 1) return static_cast<Wide<T>>(value_of<T>(first, i));
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(count - 1)));
  return combine<T>(op, tree_value<T>(op, first, left, i),
                    tree_value<T>(op, first + left, count - left, i));
}

// The reduction over leaves [0, count) of elements [begin, begin + n).
template <typename T>
std::vector<T> reduced(comm::ReduceOp op, int64_t count, int64_t begin, int64_t n) {
  std::vector<T> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    v[static_cast<size_t>(i)] = static_cast<T>(tree_value<T>(op, 0, count, begin + i));
  return v;
}

// Tensors on the device of this thread's rank.
inline Tensor empty(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::empty(shape, dtype, DeviceScope::current());
}
inline Tensor full(const Shape& shape, double value, DType dtype = DType::f32) {
  return Tensor::full(shape, value, dtype, DeviceScope::current());
}
inline Tensor zeros(const Shape& shape, DType dtype = DType::f32) { return full(shape, 0, dtype); }

template <typename T>
Tensor tensor_of(const std::vector<T>& v) {
  const Tensor t = Tensor::empty({static_cast<int64_t>(v.size())}, dtype_of<T>());
  for (size_t i = 0; i < v.size(); ++i) t.data<T>()[i] = v[i];
  return t.to(DeviceScope::current());
}

// Bit for bit.
template <typename T>
bool same_bits(const Tensor& t, const std::vector<T>& expected) {
  if (t.numel() != static_cast<int64_t>(expected.size())) return false;
  const Tensor host = t.to(kCpu);
  for (size_t i = 0; i < expected.size(); ++i) {
    const T got = host.data<T>()[i], want = expected[i];
    if (std::memcmp(&got, &want, sizeof(T)) != 0) return false;
  }
  return true;
}

}  // namespace lockstep::test
