#include "checkpoint/exchange/diff.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <sstream>
#include <string_view>
#include <utility>

#include "checkpoint/format/safetensors.h"
#include "core/base/error.h"
#include "core/base/half.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kPieceBytes = 4 << 20;

template <typename T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// One element as text and as a double. The text of a number reads back as the same number. Types
// that are not numbers are shown as bytes, and their double is NaN.
struct Element {
  std::string text;
  double value = std::nan("");
};

template <typename T>
Element number(const char* at) {
  const T value = load<T>(at);
  std::ostringstream text;
  text.precision(std::is_same_v<T, double> ? 17 : 9);
  if constexpr (std::is_integral_v<T>)
    text << +value;
  else
    text << static_cast<std::conditional_t<std::is_same_v<T, double>, double, float>>(value);
  return {text.str(), static_cast<double>(value)};
}

Element element_of(std::string_view dtype, const char* at, int64_t bytes) {
  if (dtype == "F32") return number<float>(at);
  if (dtype == "BF16") return number<BFloat16>(at);
  if (dtype == "F16") return number<Float16>(at);
  if (dtype == "F64") return number<double>(at);
  if (dtype == "I64") return number<int64_t>(at);
  if (dtype == "I32") return number<int32_t>(at);
  if (dtype == "I16") return number<int16_t>(at);
  if (dtype == "I8") return number<int8_t>(at);
  if (dtype == "U64") return number<uint64_t>(at);
  if (dtype == "U32") return number<uint32_t>(at);
  if (dtype == "U16") return number<uint16_t>(at);
  if (dtype == "U8" || dtype == "BOOL") return number<uint8_t>(at);
  std::string hex = "0x";
  for (int64_t i = bytes; i-- > 0;) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x",
                  static_cast<unsigned>(static_cast<unsigned char>(at[i])));
    hex += digits.data();
  }
  return {hex, std::nan("")};
}

std::vector<int64_t> index_of(int64_t flat, const Shape& shape) {
  std::vector<int64_t> index(static_cast<size_t>(shape.size()));
  for (int i = shape.size() - 1; i >= 0; --i) {
    index[static_cast<size_t>(i)] = flat % shape[i];
    flat /= shape[i];
  }
  return index;
}

std::string type_text(const StoredTensor& tensor) { return str(tensor.dtype, tensor.shape); }

class ValueComparison {
 public:
  explicit ValueComparison(const StoredTensor& type) : type_(type) {
    const int bits = safetensors_bits(type.dtype);
    whole_elements_ = bits % 8 == 0;
    element_ = whole_elements_ ? bits / 8 : 1;  // compare types smaller than a byte by whole bytes
    result_.name = type.name;
    result_.elements = type.bytes / element_;
  }

  void piece(const std::vector<char>& a, const std::vector<char>& b, int64_t offset,
             int64_t bytes) {
    if (std::memcmp(a.data(), b.data(), static_cast<size_t>(bytes)) == 0) return;
    for (int64_t at = 0; at < bytes; at += element_) {
      const char *left = a.data() + at, *right = b.data() + at;
      if (std::memcmp(left, right, static_cast<size_t>(element_)) == 0) continue;
      const Element x = element_of(type_.dtype, left, element_),
                    y = element_of(type_.dtype, right, element_);
      if (result_.count++ == 0) {
        result_.a = x.text;
        result_.b = y.text;
        const int64_t flat = (offset + at) / element_;
        result_.index = whole_elements_ ? index_of(flat, type_.shape) : std::vector{flat};
      }
      const double distance = std::abs(x.value - y.value);
      if (distance > result_.largest) result_.largest = distance;
    }
  }

  const TensorDifference& result() const { return result_; }

 private:
  const StoredTensor& type_;
  bool whole_elements_;
  int64_t element_;
  TensorDifference result_;
};

// Compares two sources; it has a buffer for a piece of each.
class Comparison {
 public:
  Comparison(const TensorSource& a, const TensorSource& b) : a_(a), b_(b) {}

  // Compares tensors of the same type: number `i` of the first source with `j` of the second.
  TensorDifference values(const StoredTensor& type, size_t i, size_t j) {
    ValueComparison comparison(type);
    const int64_t most = std::min(kPieceBytes, type.bytes);
    if (static_cast<size_t>(most) > left_.size()) {
      left_.resize(static_cast<size_t>(most));
      right_.resize(static_cast<size_t>(most));
    }
    for (int64_t at = 0; at < type.bytes; at += most) {
      const int64_t bytes = std::min(most, type.bytes - at);
      a_.read(i, at, bytes, left_.data());
      b_.read(j, at, bytes, right_.data());
      comparison.piece(left_, right_, at, bytes);
    }
    return comparison.result();
  }

 private:
  const TensorSource &a_, &b_;
  std::vector<char> left_, right_;
};

}  // namespace

Compared diff(const TensorSource& a, const TensorSource& b, std::span<const std::string> skip,
              const std::function<void(const TensorDifference&)>& found) {
  using Kind = TensorDifference::Kind;
  Compared result;
  const auto report = [&](const TensorDifference& difference) {
    ++result.different;
    found(difference);
  };
  Comparison comparison(a, b);
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool in_a = i < a.size() && (j == b.size() || a.name(i) <= b.name(j)),
               in_b = j < b.size() && (!in_a || a.name(i) == b.name(j));
    const std::string_view name = in_a ? a.name(i) : b.name(j);
    const size_t at_a = std::exchange(i, i + in_a), at_b = std::exchange(j, j + in_b);
    if (std::any_of(skip.begin(), skip.end(),
                    [&](const std::string& prefix) { return name.starts_with(prefix); }))
      continue;
    if (!in_a || !in_b) {
      report({.kind = in_a ? Kind::only_in_a : Kind::only_in_b,
              .name = std::string(name),
              .a = {},
              .b = {}});
      continue;
    }
    ++result.tensors;
    const StoredTensor x = a[at_a], y = b[at_b];
    if (x.dtype != y.dtype || !(x.shape == y.shape)) {
      report({.kind = Kind::type, .name = std::string(name), .a = type_text(x), .b = type_text(y)});
      continue;
    }
    result.bytes += x.bytes;
    if (x.bytes == 0) continue;
    const TensorDifference values = comparison.values(x, at_a, at_b);
    if (values.count > 0) report(values);
  }
  return result;
}

std::string to_text(const TensorDifference& d) {
  using Kind = TensorDifference::Kind;
  switch (d.kind) {
    case Kind::only_in_a: return str(d.name, ": only in the first");
    case Kind::only_in_b: return str(d.name, ": only in the second");
    case Kind::type: return str(d.name, ": ", d.a, " in the first, ", d.b, " in the second");
    case Kind::values: break;
  }
  std::string index;
  for (const int64_t i : d.index) index += (index.empty() ? "" : ", ") + std::to_string(i);
  return str(d.name, ": ", d.count, " of ", d.elements, " elements differ, first at [", index,
             "]: ", d.a, " and ", d.b,
             d.largest > 0 ? str("; largest difference ", d.largest) : std::string());
}

}  // namespace lockstep::checkpoint
