// Compares two sets of tensors, however each of them is stored and sharded.
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
  std::string a, b;  // type: "F32[2, 3]" of each; values: the first different element, as text

  // For values. Elements are compared by their bytes: 0 and −0 differ, equal NaNs do not.
  std::vector<int64_t> index = {};  // of that element, one number for each dimension
  int64_t count = 0;                // number of elements that differ
  int64_t elements = 0;             // number of all elements
  double largest = 0;               // largest |a − b| among elements that are numbers in both
};

struct Compared {
  int64_t tensors = 0, bytes = 0;  // that both sources have
  int64_t different = 0;           // number of calls of `found`
};

// Compares all tensors in the order of their names, without those whose names start with one of
// `skip`. Calls `found` for each that differs. Reads both in pieces of a few MiB. Throws
// EnvironmentError if a tensor cannot be read.
Compared diff(const TensorSource& a, const TensorSource& b, std::span<const std::string> skip,
              const std::function<void(const TensorDifference&)>& found);

// Formats a difference as a line: "wte.weight: 3 of 1024 elements differ, first at [0, 7]: 0.5 and
// 0.25; largest difference 0.25".
std::string to_text(const TensorDifference& difference);

}  // namespace lockstep::checkpoint
