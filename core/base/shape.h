// Shape: up to 8 dimensions, stored in place. Also used for strides (in elements).
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>

#include "core/base/error.h"

namespace lockstep {

class Shape {
 public:
  static constexpr int kMaxDims = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims)
      : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) {
    check(dims.size() <= kMaxDims, "[shape] at most ", kMaxDims, " dimensions, got ", dims.size());
    for (int64_t d : dims) dims_[static_cast<size_t>(size_++)] = d;
  }

  int size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  int64_t back() const {
    check(size_ > 0, "[shape] a shape without dimensions has no last one");
    return dims_[static_cast<size_t>(size_ - 1)];
  }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + size_; }
  void push_back(int64_t dim) {
    check(size_ < kMaxDims, "[shape] at most ", kMaxDims, " dimensions");
    dims_[static_cast<size_t>(size_++)] = dim;
  }
  void insert(int at, int64_t dim);
  void erase(int at);

  // Product of the dimensions; 1 for a scalar. Throws UsageError if a dimension is negative, or if
  // the product of the non-zero ones overflows, because strides are such products.
  int64_t numel() const;
  // Row-major strides, in elements. Throws as numel() does.
  Shape contiguous_strides() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.size_ != b.size_) return false;
    for (int i = 0; i < a.size_; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int size_ = 0;
};

// The shape to which both broadcast (NumPy's rules). Throws UsageError that names `op` if there is
// none.
Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op);

// "[2, 3]".
std::ostream& operator<<(std::ostream& out, const Shape& shape);

}  // namespace lockstep
