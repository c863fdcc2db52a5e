// The values of a JSON object that others wrote: any keys may be there, missing or null ones have a default, and errors name file and
// key.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace lockstep::train {

class JsonValues {
 public:
  // Keeps references to both. Throws UsageError unless `value` is an object.
  JsonValues(const nlohmann::json& value, const std::string& path);

  bool has(const char* key) const { return value_.contains(key) && !value_[key].is_null(); }
  // UsageError for a value of another type.
  int64_t integer(const char* key, int64_t missing) const;
  double number(const char* key, double missing) const;
  bool boolean(const char* key, bool missing) const;
  std::string text(const char* key, const char* missing) const;
  JsonValues object(const char* key) const;  // that is there
  // UsageError unless the key, where it is there, has this value.
  void demand(const char* key, bool value) const;
  void demand(const char* key, int64_t value) const;
  void demand(const char* key, const char* value) const;

  const std::string& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* key, const char* expected) const;
  const nlohmann::json& value_;
  const std::string& path_;
};

}  // namespace lockstep::train
