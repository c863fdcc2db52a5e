// Walk: how a kernel goes through up to three views of one shape. Outer dimensions lead to rows,
// and rows are cut into packs of neighbours.
#pragma once

#include <bit>
#include <initializer_list>

#include "core/device/cuda/kernels/dispatch.h"
#include "core/device/kernels.h"

namespace lockstep::cuda {

// Divides by a number that the host knows. Numbers below 2^32 are multiplied by the inverse
// instead, because a device has no instruction that divides integers.
class Divider {
 public:
  Divider() = default;
  // Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI'94: with
  // 2^shift >= divisor, n / divisor is n·(2^32 + inverse) / 2^(32 + shift). divisor >= 1.
  explicit Divider(int64_t divisor) : divisor_(divisor) {
    const uint64_t d = static_cast<uint64_t>(divisor);
    if (d > UINT32_MAX) return;  // its numbers are not small
    shift_ = static_cast<int>(std::bit_width(d - 1));
    inverse_ = static_cast<uint32_t>((((uint64_t{1} << shift_) - d) << 32) / d + 1);
  }

  __host__ __device__ int64_t divisor() const { return divisor_; }
  // n / divisor(), for n >= 0. `small`: n is below 2^32. All threads bring the same `small`.
  __device__ __forceinline__ int64_t divide(int64_t n, bool small) const {
    if (!small) return n / divisor_;
    const uint32_t low = static_cast<uint32_t>(n);
    const uint32_t high = static_cast<uint32_t>((uint64_t{low} * inverse_) >> 32);
    return static_cast<int64_t>((uint64_t{high} + low) >> shift_);
  }

 private:
  int64_t divisor_ = 1;
  uint32_t inverse_ = 1;
  int shift_ = 0;
};

struct Walk {
  static constexpr int kViews = 3;

  int dims = 0;       // without the row's
  int64_t rows = 1;   // 0 if a view is empty
  int64_t row = 1;    // elements of a row
  bool small = true;  // fewer than 2^32 elements
  Divider sizes[Shape::kMaxDims];
  int64_t strides[kViews][Shape::kMaxDims] = {};  // in elements, as everything here
  int64_t row_strides[kViews] = {};

  // The walk of the first view's shape. The other views broadcast to it: their last dimensions
  // are aligned with its last, and a size of 1 repeats. Dimensions are ordered by the strides of
  // the first view, so that neighbouring threads write neighbouring elements, and merged where all
  // views allow it. So dense views become one row.
  static Walk of(std::initializer_list<const StridedView*> views);

  // Whether rows of view v, which is at `data`, are dense, and packs of N of its elements aligned.
  template <int N, class T>
  bool has_packs(int v, const T* data) const {
    if (row_strides[v] != 1 || !is_aligned<N>(data)) return false;
    for (int d = 0; d < dims; ++d)
      if (strides[v][d] * static_cast<int64_t>(sizeof(T)) % alignof(Pack<T, N>) != 0) return false;
    return true;
  }
  // The offset of row r in each view.
  __device__ __forceinline__ void find_row(int64_t r, int64_t (&at)[kViews]) const {
    for (int v = 0; v < kViews; ++v) at[v] = 0;
    for (int d = dims - 1; d >= 0; --d) {
      const int64_t outer = d == 0 ? 0 : sizes[d].divide(r, small);
      const int64_t index = r - outer * sizes[d].divisor();
      for (int v = 0; v < kViews; ++v) at[v] += index * strides[v][d];
      r = outer;
    }
  }
};

template <int N, class F>
__global__ void walk_kernel(Walk walk, Divider packs, int64_t units, F f) {
  for (int64_t u = thread_number(); u < units; u += thread_count()) {
    const int64_t r = packs.divide(u, walk.small);
    const int64_t begin = (u - r * packs.divisor()) * N;
    int64_t at[Walk::kViews];
    walk.find_row(r, at);
    for (int v = 0; v < Walk::kViews; ++v) at[v] += begin * walk.row_strides[v];
    if (begin + N <= walk.row) {
      f.template run<N>(at);
    } else {
      for (int64_t i = begin; i < walk.row; ++i) {
        f.template run<1>(at);
        for (int v = 0; v < Walk::kViews; ++v) at[v] += walk.row_strides[v];
      }
    }
  }
}

// Computes all elements with a copy of f on the device. f.run<N>(at) computes a pack whose first
// element is at offset at[v] of view v. f.run<1>(at) computes one element. With N > 1, each view
// that f packs must have packs of N (has_packs).
template <int N, class F>
void for_views(const char* kernel, const Queue& queue, const Walk& walk, const F& f) {
  const int64_t packs = (walk.row + N - 1) / N, units = walk.rows * packs;
  launch(kernel, queue, grid_for(units), Threads::independent, walk_kernel<N, F>, walk,
         Divider(packs), units, f);
}

}  // namespace lockstep::cuda
