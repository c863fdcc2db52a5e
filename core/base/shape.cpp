#include "core/base/shape.h"

#include <algorithm>
#include <ostream>

namespace lockstep {

void Shape::insert(int at, int64_t dim) {
  check(at >= 0 && at <= size_, "[shape] cannot insert a dimension at ", at, " of ", *this);
  push_back(dim);
  std::rotate(dims_.begin() + at, dims_.begin() + size_ - 1, dims_.begin() + size_);
}

void Shape::erase(int at) {
  check(at >= 0 && at < size_, "[shape] cannot erase dimension ", at, " of ", *this);
  std::copy(dims_.begin() + at + 1, dims_.begin() + size_, dims_.begin() + at);
  dims_[static_cast<size_t>(--size_)] = 0;
}

int64_t Shape::numel() const {
  int64_t n = 1;
  bool empty = false;
  for (int64_t d : *this) {
    check(d >= 0, "[shape] negative dimension in ", *this);
    empty = empty || d == 0;
    check(!__builtin_mul_overflow(n, std::max<int64_t>(1, d), &n),
          "[shape] too many elements: ", *this);
  }
  return empty ? 0 : n;
}

Shape Shape::contiguous_strides() const {
  numel();  // numel() throws if a stride would overflow
  Shape strides = *this;
  int64_t step = 1;
  for (int i = size_ - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(1, (*this)[i]);
  }
  return strides;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op) {
  Shape out = a.size() >= b.size() ? a : b;
  for (int i = 1; i <= out.size(); ++i) {
    const int64_t da = i <= a.size() ? a[a.size() - i] : 1;
    const int64_t db = i <= b.size() ? b[b.size() - i] : 1;
    check(da == db || da == 1 || db == 1, "[", op, "] shapes ", a, " and ", b, " do not broadcast");
    out[out.size() - i] = da == 1 ? db : da;
  }
  return out;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  return out << ']';
}

}  // namespace lockstep
