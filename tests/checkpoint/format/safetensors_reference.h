// The rules of a safetensors file once more, told another way: over a tree that nlohmann's parser
// built, and over sums in 128 bits. What the reader says is compared with it, for every file of the
// corpus and every input of the fuzz target.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {

struct ReferenceTensor {
  int64_t begin, end;  // in the file
  std::string name, dtype;
  std::vector<int64_t> shape;
  auto operator<=>(const ReferenceTensor&) const = default;
};

struct ReferenceHeader {
  std::map<std::string, std::string> metadata;
  std::vector<ReferenceTensor> tensors;  // sorted
  bool operator==(const ReferenceHeader&) const = default;
};

namespace reference {

inline std::optional<std::vector<int64_t>> counts(const nlohmann::json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<int64_t> result;
  for (const auto& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) return std::nullopt;
    result.push_back(item.get<int64_t>());
  }
  return result;
}

inline std::optional<ReferenceTensor> tensor(const std::string& name, const nlohmann::json& value) {
  static const std::map<std::string, int> bits = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets"))
    return std::nullopt;
  const auto shape = counts(value["shape"]), offsets = counts(value["data_offsets"]);
  if (!value["dtype"].is_string() || !bits.contains(value["dtype"].get<std::string>()) || !shape ||
      shape->size() > 8 || !offsets || offsets->size() != 2)
    return std::nullopt;
  __extension__ __int128 total = bits.at(value["dtype"].get<std::string>());
  bool empty = false;
  for (const int64_t dim : *shape) {
    empty = empty || dim == 0;
    if (dim != 0) total *= dim;
    if (total > INT64_MAX) return std::nullopt;
  }
  if (empty) total = 0;
  const auto [begin, end] = std::pair((*offsets)[0], (*offsets)[1]);
  if (total % 8 != 0 || begin > end || end - begin != total / 8) return std::nullopt;
  return ReferenceTensor{begin, end, name, value["dtype"].get<std::string>(), *shape};
}

inline std::optional<ReferenceHeader> header(const nlohmann::json& json, int64_t data_bytes) {
  if (!json.is_object()) return std::nullopt;
  ReferenceHeader result;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return std::nullopt;
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) return std::nullopt;
        result.metadata.emplace(key, text.get<std::string>());
      }
    } else if (const auto read = tensor(name, value)) {
      result.tensors.push_back(*read);
    } else {
      return std::nullopt;
    }
  }
  std::sort(result.tensors.begin(), result.tensors.end());
  int64_t at = 0;
  for (const auto& read : result.tensors)
    if (read.begin != std::exchange(at, read.end)) return std::nullopt;
  return at == data_bytes ? std::optional(result) : std::nullopt;
}

}  // namespace reference

// Nothing where the file breaks a rule.
inline std::optional<ReferenceHeader> reference_read(std::string_view file) {
  uint64_t length = 0;
  if (file.size() < 8) return std::nullopt;
  std::memcpy(&length, file.data(), 8);
  if (length > file.size() - 8 || length > 100'000'000 || !file.substr(8).starts_with('{'))
    return std::nullopt;
  const auto data_begin = static_cast<int64_t>(8 + length);
  std::optional<ReferenceHeader> result;
  try {
    result = reference::header(parse_strict_json(file.substr(8, length), "reference"),
                               static_cast<int64_t>(file.size()) - data_begin);
  } catch (const EnvironmentError&) {
    return std::nullopt;
  }
  if (!result) return std::nullopt;
  for (auto& tensor : result->tensors) {
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  return result;
}

// What the reader under test found, in the same form.
inline ReferenceHeader as_reference(const SafetensorsHeader& header) {
  ReferenceHeader result;
  header.metadata.each(
      [&](std::string_view key, std::string_view value) { result.metadata.emplace(key, value); });
  for (const SafetensorsInfo info : header.tensors)
    result.tensors.push_back({info.begin,
                              info.begin + info.bytes,
                              std::string(info.name),
                              std::string(info.dtype),
                              {info.shape.begin(), info.shape.end()}});
  std::sort(result.tensors.begin(), result.tensors.end());
  return result;
}

}  // namespace lockstep::checkpoint
