#include "train/exchange/json_values.h"

#include <algorithm>
#include <utility>

#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::train {

JsonValues::JsonValues(const nlohmann::json& value, const std::string& path)
    : JsonValues(value, path, "") {}

JsonValues::JsonValues(const nlohmann::json& value, const std::string& path, std::string prefix)
    : value_(value), path_(path), prefix_(std::move(prefix)) {
  check(value.is_object(), path, ": expected an object");
}

bool JsonValues::has(const char* key) const {
  known_.insert(key);
  return value_.contains(key) && !value_[key].is_null();
}

void JsonValues::fail(const char* key, const std::string& expected) const {
  throw UsageError(str(path_, ": '", prefix_, key, "': expected ", expected, ", got ",
                       checkpoint::shown_value(value_.value(key, nlohmann::json()))));
}

int64_t JsonValues::integer(const char* key, int64_t missing) const {
  if (!has(key)) return missing;
  const nlohmann::json& value = value_[key];
  if (!value.is_number_integer()) fail(key, "an integer");
  if (value.is_number_unsigned() && !std::in_range<int64_t>(value.get<uint64_t>()))
    fail(key, "an integer of at most 63 bits");
  return value.get<int64_t>();
}

double JsonValues::number(const char* key, double missing) const {
  if (!has(key)) return missing;
  if (!value_[key].is_number()) fail(key, "a number");
  return value_[key].get<double>();
}

bool JsonValues::boolean(const char* key, bool missing) const {
  if (!has(key)) return missing;
  if (!value_[key].is_boolean()) fail(key, "true or false");
  return value_[key].get<bool>();
}

std::string JsonValues::text(const char* key, const char* missing) const {
  if (!has(key)) return missing;
  if (!value_[key].is_string()) fail(key, "a string");
  return value_[key].get<std::string>();
}

JsonValues JsonValues::object(const char* key) const {
  if (!has(key) || !value_[key].is_object()) fail(key, "an object");
  return {value_[key], path_, prefix_ + key + "."};
}

void JsonValues::demand(const char* key, const nlohmann::json& value) const {
  const bool there = has(key);
  const bool null_for_true = !there && value_.contains(key) && value == true;
  if ((there && value_[key] != value) || null_for_true)
    fail(key, value.dump() + ": other values are not supported");
}

void JsonValues::refuse_others(std::span<const std::string_view> irrelevant) const {
  std::string unknown;
  for (const auto& [key, value] : value_.items()) {
    if (value.is_null() || known_.contains(key)) continue;
    if (std::find(irrelevant.begin(), irrelevant.end(), key) != irrelevant.end()) continue;
    unknown += (unknown.empty() ? "" : ", ") + checkpoint::shown(prefix_ + key);
  }
  check(unknown.empty(), path_, ": ", unknown,
        ": not known here, so the model may compute something else; if it makes no difference to "
        "the logits, remove it from the file");
}

}  // namespace lockstep::train
