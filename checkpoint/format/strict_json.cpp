#include "checkpoint/format/strict_json.h"

#include <algorithm>
#include <set>

namespace lockstep::checkpoint {
namespace {

constexpr size_t kMaxDepth = 16;

bool is_count(const nlohmann::json& value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// Cuts after `longest` bytes, but not inside a UTF-8 character.
std::string printable(std::string_view text, size_t longest) {
  size_t length = std::min(text.size(), longest);
  while (length > 0 && length < text.size() && (text[length] & 0xc0) == 0x80) --length;
  std::string result(text.substr(0, length));
  for (char& c : result)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return result + (length < text.size() ? "…" : "");
}

EnvironmentError invalid_json(const std::string& path, const nlohmann::json::exception& e) {
  return EnvironmentError(str(path, ": not valid JSON: ", printable(e.what(), 200)));
}

// Checks a text before a tree is built from it. (A parser callback could check while the tree
// grows. But with a callback, nlohmann's parser takes time quadratic in the number of objects: at
// the end of each object, it walks all of its siblings.)
class StrictCheck final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  bool start_object(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    const auto [place, added] = keys_.back().insert(std::move(key));
    if (!added) throw EnvironmentError(str(path_, ": the key ", shown(*place), " is there twice"));
    return true;
  }

 private:
  bool open() {
    keys_.emplace_back();
    if (keys_.size() > kMaxDepth)
      throw EnvironmentError(str(path_, ": JSON nested deeper than ", kMaxDepth, " levels"));
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys_;  // one set per open object, an empty one for a list
};

}  // namespace

std::string shown(std::string_view name) { return str("'", printable(name, 100), "'"); }

std::string shown_value(const nlohmann::json& value) {
  if (value.is_string()) return shown(value.get_ref<const std::string&>());
  return value.is_array() ? "a list" : value.is_object() ? "an object" : value.dump();
}

void JsonEvents::parse(std::string_view text) {
  // The parser would stop at a zero byte and ignore the rest.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    throw EnvironmentError(str(path_, ": not valid JSON: a zero byte at ", zero));
  nlohmann::json::sax_parse(text.begin(), text.end(), this);
}

bool JsonEvents::parse_error(size_t, const std::string&, const nlohmann::json::exception& e) {
  throw invalid_json(path_, e);
}

nlohmann::json parse_strict_json(std::string_view text, const std::string& path) {
  StrictCheck(path).parse(text);
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& e) {
    throw invalid_json(path, e);
  }
}

JsonFields::JsonFields(const nlohmann::json& value, std::initializer_list<const char*> keys,
                       const std::string& path, const std::string& what)
    : value_(value), path_(path), what_(what) {
  if (!value.is_object()) throw EnvironmentError(str(path, ": ", what, ": expected an object"));
  for (const char* key : keys)
    if (!value.contains(key))
      throw EnvironmentError(str(path, ": ", what, ": '", key, "' is missing"));
  if (value.size() == keys.size()) return;
  for (const auto& item : value.items()) {
    bool known = false;
    for (const char* key : keys) known = known || item.key() == key;
    if (!known) throw EnvironmentError(str(path, ": ", what, ": unknown key ", shown(item.key())));
  }
}

void JsonFields::fail(const char* key, const char* expected, const nlohmann::json& got) const {
  throw EnvironmentError(
      str(path_, ": ", what_, ": '", key, "': expected ", expected, ", got ", shown_value(got)));
}

int64_t JsonFields::integer(const char* key) const {
  if (!is_count(value_[key])) fail(key, "an integer of 0 or more", value_[key]);
  return value_[key].get<int64_t>();
}

std::string JsonFields::text(const char* key) const {
  if (!value_[key].is_string()) fail(key, "a string", value_[key]);
  return value_[key].get<std::string>();
}

std::map<std::string, std::string> JsonFields::texts(const char* key) const {
  std::map<std::string, std::string> result;
  for (const auto& item : object(key).items()) {
    if (!item.value().is_string()) fail(key, "strings only", item.value());
    result.emplace(item.key(), item.value().get<std::string>());
  }
  return result;
}

std::vector<int64_t> JsonFields::integers(const char* key) const {
  std::vector<int64_t> result;
  for (const auto& item : list(key)) {
    if (!is_count(item)) fail(key, "integers of 0 or more", item);
    result.push_back(item.get<int64_t>());
  }
  return result;
}

const nlohmann::json& JsonFields::list(const char* key) const {
  if (!value_[key].is_array()) fail(key, "a list", value_[key]);
  return value_[key];
}

const nlohmann::json& JsonFields::object(const char* key) const {
  if (!value_[key].is_object()) fail(key, "an object", value_[key]);
  return value_[key];
}

int64_t checked_bytes(std::span<const int64_t> dims, int64_t bits_per_element) {
  if (dims.size() > static_cast<size_t>(Shape::kMaxDims)) return -1;
  bool empty = false;
  int64_t bits = bits_per_element;
  for (const int64_t dim : dims) {
    empty = empty || dim == 0;
    // Check even if another dimension is 0: strides are products of the other dimensions.
    if (dim != 0 && __builtin_mul_overflow(bits, dim, &bits)) return -1;
  }
  if (empty) return 0;
  return bits % 8 == 0 ? bits / 8 : -1;
}

}  // namespace lockstep::checkpoint
