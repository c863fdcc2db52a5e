#include "train/exchange/json_values.h"

#include "core/base/error.h"

namespace lockstep::train {

JsonValues::JsonValues(const nlohmann::json& value, const std::string& path) : value_(value), path_(path) {
  check(value.is_object(), path, ": expected an object");
}

void JsonValues::fail(const char* key, const char* expected) const {
  throw UsageError(str(path_, ": '", key, "': expected ", expected, ", got ", value_[key].dump().substr(0, 60)));
}

int64_t JsonValues::integer(const char* key, int64_t missing) const {
  if (!has(key)) return missing;
  if (!value_[key].is_number_integer()) fail(key, "an integer");
  return value_[key].get<int64_t>();
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
  if (!value_[key].is_object()) fail(key, "an object");
  return {value_[key], path_};
}

void JsonValues::demand(const char* key, bool value) const {
  if (boolean(key, value) != value) fail(key, value ? "true: nothing else is computed here" : "false: nothing else is computed here");
}

void JsonValues::demand(const char* key, int64_t value) const {
  if (integer(key, value) != value) fail(key, str(value, ": nothing else is computed here").c_str());
}

void JsonValues::demand(const char* key, const char* value) const {
  if (text(key, value) != value) fail(key, str(value, ": nothing else is computed here").c_str());
}

}  // namespace lockstep::train
