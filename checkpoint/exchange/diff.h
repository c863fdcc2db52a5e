// Where two sets of tensors differ, however each is stored and sharded.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/exchange/tensor_source.h"

namespace lockstep::checkpoint {

struct TensorDifference {
  enum class Kind : uint8_t { only_in_a, only_in_b, type, values };
  Kind kind = Kind::values;
  std::string name;
  std::string a, b;  // type: "F32[2, 3]" of each; values: the first element that differs, as text

  // Of values. Elements are compared by their bytes: 0 and −0 differ, and equal NaNs do not.
  std::vector<int64_t> index = {};  // of that element, one number for each dimension
  int64_t count = 0;                // of elements that differ
  int64_t elements = 0;             // of all
  double largest = 0;               // |a − b|, over the elements that are numbers in both
};

struct Compared {
  int64_t tensors = 0, bytes = 0;  // that both have
  int64_t different = 0;           // calls of `found`
};

// Compares all tensors whose names start with none of `skip`, in the order of their names, and
// calls `found` for each that differs. Reads both in pieces of a few MiB. Throws EnvironmentError
// where one cannot be read.
Compared diff(const TensorSource& a, const TensorSource& b, std::span<const std::string> skip,
              const std::function<void(const TensorDifference&)>& found);

// One line for a difference: "wte.weight: 3 of 1024 elements differ, first at [0, 7]: 0.5 and 0.25;
// largest difference 0.25".
std::string to_text(const TensorDifference& difference);

}  // namespace lockstep::checkpoint
