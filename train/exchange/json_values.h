// Reads the values of a JSON object that another program wrote. A key that is missing or null has a
// default. The object remembers which keys were read, so that an unknown key is never ignored.
// Errors name file and key.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace lockstep::train {

class JsonValues {
 public:
  // Keeps references to both arguments. Throws UsageError unless `value` is an object.
  JsonValues(const nlohmann::json& value, const std::string& path);

  bool has(const char* key) const;
  // These throw UsageError for a value of another type.
  int64_t integer(const char* key, int64_t missing) const;
  double number(const char* key, double missing) const;
  bool boolean(const char* key, bool missing) const;
  std::string text(const char* key, const char* missing) const;
  JsonValues object(const char* key) const;  // must be there
  // Throws UsageError if the key is there with another value. A null does not count as `true`.
  void demand(const char* key, const nlohmann::json& value) const;
  // Throws UsageError that names every key that is not null, was not read, and is not in
  // `irrelevant`.
  void refuse_others(std::span<const std::string_view> irrelevant) const;

  const std::string& path() const { return path_; }

 private:
  JsonValues(const nlohmann::json& value, const std::string& path, std::string prefix);
  [[noreturn]] void fail(const char* key, const std::string& expected) const;

  const nlohmann::json& value_;
  const std::string& path_;
  std::string prefix_;                   // "rope_scaling." for an inner object
  mutable std::set<std::string> known_;  // the keys that were read
};

}  // namespace lockstep::train
