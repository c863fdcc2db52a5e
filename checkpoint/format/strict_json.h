// JSON as files of ours are read: no doubled keys, no deep nesting, and errors that name file and
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

// Out of somebody's file, for messages: a name in quotes; a value, of which lists and objects are
// only called so. Cut after 100 bytes, without what a terminal would obey.
std::string shown(std::string_view name);
std::string shown_value(const nlohmann::json& value);

// What a parser comes upon, one after another: for texts of which a tree would take too much
// memory. Each event may throw.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonEvents(const std::string& path) : path_(path) {}
  // Throws EnvironmentError "PATH: not valid JSON: …" for text that is no single JSON value.
  void parse(std::string_view text);

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) final { return true; }  // JSON has none
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) final;

 protected:
  const std::string& path_;
};

// Throws EnvironmentError "PATH: …" for text that is no single JSON value, has a key twice in an
// object or is deeper than 16 levels.
nlohmann::json parse_strict_json(std::string_view text, const std::string& path);

// The parts of an object, checked. `what` names the object in messages: "entry 'wte.weight'".
class JsonFields {
 public:
  // Throws unless `value` is an object with exactly these keys.
  JsonFields(const nlohmann::json& value, std::initializer_list<const char*> keys,
             const std::string& path, const std::string& what);

  int64_t integer(const char* key) const;  // 0 or more
  std::string text(const char* key) const;
  std::map<std::string, std::string> texts(const char* key) const;  // an object of strings
  std::vector<int64_t> integers(const char* key) const;             // a list; 0 or more each
  const nlohmann::json& list(const char* key) const;
  const nlohmann::json& object(const char* key) const;

 private:
  [[noreturn]] void fail(const char* key, const char* expected, const nlohmann::json& got) const;
  const nlohmann::json& value_;
  const std::string& path_;
  std::string what_;
};

// The bytes of a shape; -1 where they are no whole number, the product of the dimensions other than
// 0 leaves 63 bits, or the shape has more than Shape::kMaxDims dimensions.
int64_t checked_bytes(std::span<const int64_t> dims, int64_t bits_per_element);

}  // namespace lockstep::checkpoint
