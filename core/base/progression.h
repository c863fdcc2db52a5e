// Progression: the numbers first, first + step, first + 2 step, …, as a list that takes no memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace lockstep {

class Progression {
 public:
  class const_iterator {
   public:
    using iterator_category = std::input_iterator_tag;  // its reference is a value
    using value_type = int64_t;
    using difference_type = std::ptrdiff_t;
    using pointer = const int64_t*;
    using reference = int64_t;

    const_iterator() = default;
    const_iterator(int64_t at, int64_t step) : at_(at), step_(step) {}
    int64_t operator*() const { return at_; }
    const_iterator& operator++() {
      at_ += step_;
      return *this;
    }
    const_iterator operator++(int) {
      const const_iterator before = *this;
      ++*this;
      return before;
    }
    bool operator==(const const_iterator&) const = default;

   private:
    int64_t at_ = 0, step_ = 1;
  };
  using iterator = const_iterator;
  using value_type = int64_t;

  Progression() = default;
  Progression(int64_t first, int64_t count, int64_t step = 1)
      : first_(first), count_(count), step_(step) {}

  size_t size() const { return static_cast<size_t>(count_); }
  bool empty() const { return count_ == 0; }
  int64_t front() const { return first_; }
  int64_t back() const { return first_ + (count_ - 1) * step_; }
  int64_t step() const { return step_; }
  const_iterator begin() const { return {first_, step_}; }
  const_iterator end() const { return {first_ + count_ * step_, step_}; }

 private:
  int64_t first_ = 0, count_ = 0, step_ = 1;
};

}  // namespace lockstep
