#include "core/device/cpu/strided.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "core/base/parallel.h"
#include "core/device/cpu/pieces.h"

namespace lockstep::cpu {
namespace {

constexpr int kMaxViews = 3;

// The common iteration space of up to three views. Its points are rows of `row` elements.
// Dimensions that are dense in all views are merged, so contiguous tensors become one long
// row.
struct Walk {
  int views = 0;
  int dims = 0;  // without the row dimension
  int64_t outer = 1, row = 1;
  std::array<int64_t, Shape::kMaxDims> sizes{};
  std::array<std::array<int64_t, Shape::kMaxDims>, kMaxViews> strides{};
  std::array<int64_t, kMaxViews> row_strides{};

  // Start of row i in each view, in elements.
  std::array<int64_t, kMaxViews> offsets(int64_t i) const {
    std::array<int64_t, kMaxViews> at{};
    for (int d = dims - 1; d >= 0; --d) {
      const int64_t index = i % sizes[static_cast<size_t>(d)];
      i /= sizes[static_cast<size_t>(d)];
      for (int v = 0; v < views; ++v)
        at[static_cast<size_t>(v)] +=
            index * strides[static_cast<size_t>(v)][static_cast<size_t>(d)];
    }
    return at;
  }
};

// Returns the stride of `view` along dimension d of `shape`, with the last dimensions aligned. It
// is 0 if the view repeats along d.
int64_t stride_along(const StridedView& view, const Shape& shape, int d) {
  const int own = d - (shape.size() - view.shape.size());
  if (own < 0 || (view.shape[own] == 1 && shape[d] != 1)) return 0;
  return view.strides[own];
}

Walk plan(std::initializer_list<const StridedView*> views) {
  const Shape& shape = (*views.begin())->shape;
  Walk walk;
  walk.views = static_cast<int>(views.size());
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] == 1) continue;
    std::array<int64_t, kMaxViews> strides{};
    size_t v = 0;
    for (const StridedView* view : views) strides[v++] = stride_along(*view, shape, d);
    // Merges this dimension with the previous one if in every view that one's stride spans exactly
    // this dimension.
    bool merge = walk.dims > 0;
    const size_t last = static_cast<size_t>(walk.dims - 1);
    for (size_t i = 0; merge && i < views.size(); ++i)
      merge = walk.strides[i][last] == strides[i] * shape[d];
    if (merge) {
      walk.sizes[last] *= shape[d];
      for (size_t i = 0; i < views.size(); ++i) walk.strides[i][last] = strides[i];
      continue;
    }
    walk.sizes[static_cast<size_t>(walk.dims)] = shape[d];
    for (size_t i = 0; i < views.size(); ++i)
      walk.strides[i][static_cast<size_t>(walk.dims)] = strides[i];
    ++walk.dims;
  }
  if (walk.dims > 0) {
    const size_t last = static_cast<size_t>(--walk.dims);
    walk.row = walk.sizes[last];
    for (size_t i = 0; i < views.size(); ++i) walk.row_strides[i] = walk.strides[i][last];
  }
  for (int d = 0; d < walk.dims; ++d) walk.outer *= walk.sizes[static_cast<size_t>(d)];
  return walk;
}

// Calls body(n, offsets of the views) for stretches of rows, on several threads. Long rows are cut,
// and short ones are grouped.
template <typename F>
void for_rows(const Walk& walk, const F& body) {
  if (walk.outer == 0 || walk.row == 0) return;
  const int64_t cuts = (walk.row + kElementwiseGrain - 1) / kElementwiseGrain;
  const int64_t group = std::max<int64_t>(1, kElementwiseGrain / walk.row);
  const int64_t units = walk.outer * cuts;
  parallel_for((units + group - 1) / group, [&](int64_t piece) {
    for (int64_t u = piece * group; u < std::min(units, (piece + 1) * group); ++u) {
      auto at = walk.offsets(u / cuts);
      const int64_t begin = u % cuts * kElementwiseGrain;
      for (size_t v = 0; v < kMaxViews; ++v) at[v] += begin * walk.row_strides[v];
      body(std::min(walk.row - begin, kElementwiseGrain), at);
    }
  });
}

template <typename T>
T* element(const StridedView& view, int64_t offset) {
  return static_cast<T*>(view.data) + offset;
}
void* address(const StridedView& view, int64_t offset) {
  return static_cast<char*>(view.data) + offset * size_of(view.dtype);
}

// Converts one element. Floating point to integer truncates. A conversion to bool tests for
// non-zero.
template <typename To, typename From>
To converted(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<To, bool>) {
    if constexpr (std::is_arithmetic_v<From>)
      return x != From{};
    else
      return static_cast<float>(x) != 0.0f;
  } else if constexpr (std::is_arithmetic_v<To>) {
    if constexpr (std::is_arithmetic_v<From>)
      return static_cast<To>(x);
    else
      return static_cast<To>(static_cast<float>(x));
  } else {
    return To(static_cast<float>(x));
  }
}

template <typename T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

// Whether every value of `From` converts to `To` without a check: `To` holds all of them, or is not
// an integer type.
template <typename To, typename From>
constexpr bool always_held() {
  if constexpr (!kIsInteger<To> || std::is_same_v<From, bool>)
    return true;
  else if constexpr (kIsInteger<From>)
    return std::in_range<To>(std::numeric_limits<From>::min()) &&
           std::in_range<To>(std::numeric_limits<From>::max());
  else
    return false;
}

// Whether the integer type `To` holds `x`, ignoring a float's fraction. Out of range, C++ leaves
// the conversion of floats undefined and wraps integers.
template <typename To, typename From>
bool holds(From x) {
  if constexpr (kIsInteger<From>) {
    return std::in_range<To>(x);
  } else {
    constexpr double low = static_cast<double>(std::numeric_limits<To>::min());
    const double beyond = std::ldexp(1.0, std::numeric_limits<To>::digits),
                 whole = std::trunc(static_cast<double>(static_cast<float>(x)));
    return whole >= low && whole < beyond;
  }
}

template <typename To, typename From>
void check_values(const Walk& walk, const StridedView& dst, const StridedView& src) {
  using Shown = std::conditional_t<kIsInteger<From>, int64_t, float>;
  for_rows(walk, [&](int64_t n, const auto& at) {
    const From* x = element<From>(src, at[1]);
    for (int64_t i = 0; i < n; ++i) {
      const From value = x[i * walk.row_strides[1]];
      check(holds<To>(value), "[copy] ", static_cast<Shown>(value), " is not a value of ",
            dst.dtype, "; nothing was written");
    }
  });
}

bool vector_convertible(DType to, DType from) {
  const auto easy = [](DType t) { return t == DType::f32 || t == DType::bf16; };
  return to == from || (easy(to) && easy(from));
}

// Integers wrap around.
template <typename T>
T apply(BinaryOp op, T a, T b) {
  using Wrapping = typename std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>,
                                               std::type_identity<T>>::type;
  const auto x = static_cast<Wrapping>(a), y = static_cast<Wrapping>(b);
  switch (op) {
    case BinaryOp::add: return static_cast<T>(x + y);
    case BinaryOp::sub: return static_cast<T>(x - y);
    case BinaryOp::mul: return static_cast<T>(x * y);
    case BinaryOp::div:
      if constexpr (std::is_integral_v<T>) {
        check(b != 0, "[div] integer division by zero");
        if (std::is_signed_v<T> && y == static_cast<Wrapping>(-1))
          return static_cast<T>(Wrapping{0} - x);  // avoids the trap of lowest / -1
      }
      return static_cast<T>(a / b);
    case BinaryOp::maximum: return a != a ? a : (a > b ? a : b);
    case BinaryOp::minimum: return a != a ? a : (a < b ? a : b);
    default: throw UsageError("[binary] a comparison is not arithmetic");
  }
}

bool is_comparison(BinaryOp op) {
  return op == BinaryOp::equal || op == BinaryOp::less || op == BinaryOp::greater;
}

template <typename T>
bool compare(BinaryOp op, T a, T b) {
  return op == BinaryOp::equal ? a == b : op == BinaryOp::less ? a < b : a > b;
}

// For any strides and any dtype. 16-bit floats are computed in f32.
template <typename T>
void binary_elements(BinaryOp op, const Walk& walk, const StridedView& dst, const StridedView& a,
                     const StridedView& b) {
  using Compute =
      std::conditional_t<std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float, T>;
  for_rows(walk, [&](int64_t n, const auto& at) {
    const auto [sd, sa, sb] = walk.row_strides;
    const T *x = element<T>(a, at[1]), *y = element<T>(b, at[2]);
    for (int64_t i = 0; i < n; ++i) {
      const Compute left = x[i * sa], right = y[i * sb];
      if (is_comparison(op))
        element<bool>(dst, at[0])[i * sd] = compare(op, left, right);
      else if constexpr (!std::is_same_v<T, bool>)
        element<T>(dst, at[0])[i * sd] = T(apply(op, left, right));
    }
  });
}

}  // namespace

void strided_copy(const StridedView& dst, const StridedView& src) {
  const Walk walk = plan({&dst, &src});
  const int64_t to = walk.row_strides[0], from = walk.row_strides[1];
  if (to == 1 && from == 1 && vector_convertible(dst.dtype, src.dtype)) {
    for_rows(walk, [&](int64_t n, const auto& at) {
      row_kernels().convert(dst.dtype, src.dtype, n, address(dst, at[0]), address(src, at[1]));
    });
    return;
  }
  dispatch(dst.dtype, [&](auto to_zero) {
    dispatch(src.dtype, [&](auto from_zero) {
      using To = decltype(to_zero);
      using From = decltype(from_zero);
      if constexpr (!always_held<To, From>()) check_values<To, From>(walk, dst, src);
      for_rows(walk, [&](int64_t n, const auto& at) {
        To* y = element<To>(dst, at[0]);
        const From* x = element<From>(src, at[1]);
        for (int64_t i = 0; i < n; ++i) y[i * to] = converted<To>(x[i * from]);
      });
    });
  });
}

void strided_fill(const StridedView& dst, double value) {
  const Walk walk = plan({&dst});
  const int64_t stride = walk.row_strides[0];
  dispatch(dst.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T filler = converted<T>(value);
    for_rows(walk, [&](int64_t n, const auto& at) {
      T* y = element<T>(dst, at[0]);
      if (stride == 1)
        std::fill_n(y, n, filler);
      else
        for (int64_t i = 0; i < n; ++i) y[i * stride] = filler;
    });
  });
}

void strided_binary(BinaryOp op, const StridedView& dst, const StridedView& a,
                    const StridedView& b) {
  check(a.dtype == b.dtype, "[binary] expected operands of one dtype, got ", a.dtype, " and ",
        b.dtype);
  check(dst.dtype == (is_comparison(op) ? DType::boolean : a.dtype), "[binary] the result's dtype ",
        dst.dtype, " does not fit operands of ", a.dtype);
  check(a.dtype != DType::boolean || is_comparison(op), "[binary] no arithmetic on bool");
  const Walk walk = plan({&dst, &a, &b});
  const auto [sd, sa, sb] = walk.row_strides;
  const bool dense = sd == 1 && (sa == 0 || sa == 1) && (sb == 0 || sb == 1);
  if (dense && (a.dtype == DType::f32 || a.dtype == DType::bf16)) {
    const int64_t a_stride = sa, b_stride = sb;
    for_rows(walk, [&](int64_t n, const auto& at) {
      row_kernels().binary(op, a.dtype, n, address(dst, at[0]), address(a, at[1]), a_stride,
                           address(b, at[2]), b_stride);
    });
    return;
  }
  dispatch(a.dtype, [&](auto zero) { binary_elements<decltype(zero)>(op, walk, dst, a, b); });
}

}  // namespace lockstep::cpu
