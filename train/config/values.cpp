// Values of config keys: from text, to text.
#include <charconv>
#include <cmath>

#include "core/base/byte_text.h"
#include "train/config/keys.h"

namespace lockstep::train {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};

std::string number_text(double value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end.ptr};
}

std::string list_text(const std::vector<double>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + number_text(values[i]);
  return text + "]";
}

bool is_plain_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.' || c == '/';
}

// Double-quoted YAML, unless the text is plain letters that nobody could take for something else.
std::string quoted_text(const std::string& text) {
  bool plain = !text.empty() && text.find_first_not_of("-.") != std::string::npos && text[0] != '-';
  for (const char c : text) plain = plain && is_plain_character(c);
  if (plain && text != "null" && text != "Null" && text != "NULL") return text;
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr char digits[] = "0123456789ABCDEF";
      out += std::string("\\x") + digits[byte >> 4] + digits[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

template <typename T>
bool parse_number(const std::string& text, T& value) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc() && end.ptr == text.data() + text.size();
}

struct Setter {
  const Key& key;
  const RawValue& value;
  const std::string& where;

  std::string written() const {
    if (!value.is_list) return value.items[0];
    std::string text = "[";
    for (size_t i = 0; i < value.items.size(); ++i) text += (i ? ", " : "") + value.items[i];
    return text + "]";
  }
  [[noreturn]] void wrong_type() const {
    const std::string kind = value.is_list ? "the list " : value.quoted ? "the quoted text " : "";
    throw UsageError(str(where, ": key '", key.name, "': expected ", type_text(key), ", got ", kind,
                         "'", written(), "'"));
  }
  void check_range(double number, const std::string& text) const {
    if (!key.range.contains(number))
      throw UsageError(str(where, ": key '", key.name, "': ", text, " is out of range: expected ",
                           key.range.text()));
  }
  double number(const std::string& text) const {
    double result = 0;
    if (value.quoted || !parse_number(text, result) || !std::isfinite(result)) wrong_type();
    check_range(result, text);
    return result;
  }
  const std::string& scalar() const {
    if (value.is_list) wrong_type();
    return value.items[0];
  }

  void operator()(std::string* field) const {
    const std::string& text = scalar();
    bool allowed = key.choices.empty();
    for (const auto& choice : key.choices) allowed = allowed || text == choice;
    if (!allowed)
      throw UsageError(
          str(where, ": key '", key.name, "': '", text, "' is none of ", type_text(key)));
    *field = text;
  }
  void operator()(int64_t* field) const {
    if (value.quoted || !parse_number(scalar(), *field)) wrong_type();
    check_range(static_cast<double>(*field), written());
  }
  void operator()(double* field) const { *field = number(scalar()); }
  void operator()(bool* field) const {
    const std::string& text = scalar();
    if (value.quoted || (text != "true" && text != "false")) wrong_type();
    *field = text == "true";
  }
  void operator()(std::vector<double>* field) const {
    if (!value.is_list || value.items.size() != key.list_size) wrong_type();
    field->clear();
    for (const auto& item : value.items) field->push_back(number(item));
  }
};

}  // namespace

bool Range::contains(double value) const {
  return (min_excluded ? value > min : value >= min) && (max_excluded ? value < max : value <= max);
}

std::string Range::text() const {
  const std::string low =
      std::isfinite(min) ? (min_excluded ? "above " : "at least ") + number_text(min) : "";
  const std::string high =
      std::isfinite(max) ? (max_excluded ? "below " : "at most ") + number_text(max) : "";
  return low + (low.empty() || high.empty() ? "" : " and ") + high;
}

std::string type_text(const Key& key) {
  Config config;
  return std::visit(Overloaded{[&](std::string*) {
                                 if (key.choices.empty()) return std::string("text");
                                 std::string text;
                                 for (const auto& choice : key.choices)
                                   text += str(text.empty() ? "" : " | ", choice);
                                 return text;
                               },
                               [](int64_t*) { return std::string("an integer"); },
                               [](double*) { return std::string("a number"); },
                               [](bool*) { return std::string("true or false"); },
                               [&](std::vector<double>*) {
                                 return str("a list of ", key.list_size, " numbers");
                               }},
                    key.field(config));
}

std::string value_text(const Key& key, const Config& config) {
  // The table's accessors serve reading and writing; nothing is written here.
  return std::visit(
      Overloaded{[](const std::string* text) { return quoted_text(text_of_bytes(*text)); },
                 [](const int64_t* n) { return std::to_string(*n); },
                 [](const double* n) { return number_text(*n); },
                 [](const bool* b) { return std::string(*b ? "true" : "false"); },
                 [](const std::vector<double>* list) { return list_text(*list); }},
      key.field(const_cast<Config&>(config)));
}

void set_field(Config& config, const Key& key, const RawValue& value, const std::string& where) {
  std::visit(Setter{key, value, where}, key.field(config));
}

}  // namespace lockstep::train
