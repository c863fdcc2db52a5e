// Reads our JSON files: no repeated keys, no deep nesting, and errors that name file and
// field.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/shape.h"

namespace lockstep::checkpoint {

// Shows text from a foreign file in a message: a name in quotes, or a value; lists and objects are
// named, not printed. Cut after 100 bytes, and without control characters for terminals.
std::string shown(std::string_view name);
std::string shown_value(const nlohmann::json& value);

// Receives the parts of a text as the parser reads them, for texts whose tree would take too much
// memory. Each event may throw.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonEvents(const std::string& path) : path_(path) {}
  // Throws EnvironmentError "PATH: not valid JSON: …" unless the text is one JSON value.
  void parse(std::string_view text);

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) final { return true; }  // JSON has no binary values
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) final;

 protected:
  const std::string& path_;
};

// Throws EnvironmentError "PATH: …" if the text is not one JSON value, repeats a key in an object,
// or is deeper than 16 levels.
nlohmann::json parse_strict_json(std::string_view text, const std::string& path);

// The checked fields of an object. `what` names it in messages: "entry 'wte.weight'".
class JsonFields {
 public:
  // Throws unless `value` is an object with exactly these keys.
  JsonFields(const nlohmann::json& value, std::initializer_list<const char*> keys,
             const std::string& path, const std::string& what);

  int64_t integer(const char* key) const;  // 0 or more
  std::string text(const char* key) const;
  std::map<std::string, std::string> texts(const char* key) const;  // an object of strings
  std::vector<int64_t> integers(const char* key) const;             // a list; each 0 or more
  const nlohmann::json& list(const char* key) const;
  const nlohmann::json& object(const char* key) const;

 private:
  [[noreturn]] void fail(const char* key, const char* expected, const nlohmann::json& got) const;
  const nlohmann::json& value_;
  const std::string& path_;
  std::string what_;
};

// Returns the bytes of a shape. -1 if these are not a whole number, if the product of all
// dimensions except 0 exceeds 63 bits, or if there are more than Shape::kMaxDims dimensions.
int64_t checked_bytes(std::span<const int64_t> dims, int64_t bits_per_element);

}  // namespace lockstep::checkpoint
