#include "core/device/cuda/kernels/dispatch.h"
#include "core/device/cuda/ordered_sum.h"

namespace lockstep::cuda {
namespace {

// What travels to the device with the kernel: SliceOrder::adds().
struct Adds {
  uint8_t of[kMostSlices];
};

// What a value is while it is combined. Sums of integers wrap around.
template <class T>
struct CarriedAs {
  using type = std::conditional_t<std::is_same_v<T, bool>, uint8_t, Compute<T>>;
};
template <>
struct CarriedAs<int32_t> {
  using type = uint32_t;
};
template <>
struct CarriedAs<int64_t> {
  using type = uint64_t;
};

// T says how carried values compare.
template <class T, class A>
__device__ __forceinline__ A combine(SliceOp op, A a, A b) {
  if constexpr (std::is_same_v<T, bool>) {
    if (op == SliceOp::product || op == SliceOp::min || op == SliceOp::band)
      return static_cast<A>(a & b);
    return static_cast<A>(op == SliceOp::bxor ? a ^ b : a | b);
  } else {
    if (op == SliceOp::sum) return static_cast<A>(a + b);
    if (op == SliceOp::product) return static_cast<A>(a * b);
    if constexpr (std::is_floating_point_v<A>) {
      // A NaN wins, whichever side it is on.
      if (op == SliceOp::min) return (a < b || a != a) ? a : b;
      return (a > b || a != a) ? a : b;
    } else {
      if (op == SliceOp::min) return static_cast<T>(a) < static_cast<T>(b) ? a : b;
      if (op == SliceOp::max) return static_cast<T>(a) > static_cast<T>(b) ? a : b;
      if (op == SliceOp::band) return static_cast<A>(a & b);
      return static_cast<A>(op == SliceOp::bor ? a | b : a ^ b);
    }
  }
}

// DEPTH values wait in registers, the newest in front: indices are constants, so none goes to
// memory.
template <class T, int DEPTH>
struct Combine {
  using A = typename CarriedAs<T>::type;
  using Stored = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;

  SliceOp op;
  int slices, own;
  const Stored *mine, *others;
  int64_t stride;
  Stored* out;
  Adds adds;

  template <int N>
  __device__ void run(int64_t i) const {
    A waiting[DEPTH][N] = {};
    const Stored* other = others + i;
    for (int slice = 0; slice < slices; ++slice) {
      const Pack<Compute<Stored>, N> value = load<N>(slice == own ? mine + i : other);
      if (slice != own) other += stride;
#pragma unroll
      for (int d = DEPTH - 1; d > 0; --d)
        for (int j = 0; j < N; ++j) waiting[d][j] = waiting[d - 1][j];
      for (int j = 0; j < N; ++j) waiting[0][j] = static_cast<A>(value.at[j]);
      for (int add = 0; add < adds.of[slice]; ++add) {
        for (int j = 0; j < N; ++j)
          waiting[0][j] = combine<T>(op, waiting[DEPTH > 1 ? 1 : 0][j], waiting[0][j]);
#pragma unroll
        for (int d = 1; d + 1 < DEPTH; ++d)
          for (int j = 0; j < N; ++j) waiting[d][j] = waiting[d + 1][j];
      }
    }
    Pack<Compute<Stored>, N> result;
    for (int j = 0; j < N; ++j) result.at[j] = static_cast<Compute<Stored>>(waiting[0][j]);
    store<N>(out + i, result);
  }
};

template <class T, int DEPTH>
void run(const Queue& queue, SliceOp op, const SliceOrder& order, int own, const void* mine,
         const void* others, int64_t stride, void* out, int64_t count) {
  using F = Combine<T, DEPTH>;
  using S = typename F::Stored;
  F f{op,     order.slices(),       own, static_cast<const S*>(mine), static_cast<const S*>(others),
      stride, static_cast<S*>(out), {}};
  std::copy(order.adds().begin(), order.adds().end(), f.adds.of);
  constexpr int N = kPack<S>;
  const bool aligned =
      is_aligned<N>(f.mine) && is_aligned<N>(f.others) && is_aligned<N>(f.out) && stride % N == 0;
  for_elements<N>("combine_slices", queue, count, aligned, f);
}

}  // namespace

void combine_slices(const Queue& queue, DType dtype, SliceOp op, const SliceOrder& order, int own,
                    const void* mine, const void* others, int64_t stride, void* out,
                    int64_t count) {
  check(op < SliceOp::band || !is_floating(dtype),
        "[combine_slices] bit operations need integers or bool, got ", dtype);
  constexpr int kShallow = 4, kDeep = 32;  // 8 ranks with a micro-batch each need 4
  check(order.depth() <= kDeep, "[combine_slices] at most ", kDeep, " values may wait, got ",
        order.depth());
  if (count == 0) return;
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (order.depth() <= kShallow)
      run<T, kShallow>(queue, op, order, own, mine, others, stride, out, count);
    else
      run<T, kDeep>(queue, op, order, own, mine, others, stride, out, count);
  });
}

}  // namespace lockstep::cuda
