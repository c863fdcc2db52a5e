// Converts values of config keys from and to text.
#include <algorithm>
#include <cmath>

#include "core/base/byte_text.h"
#include "core/base/number_text.h"
#include "train/config/keys.h"

namespace lockstep::train {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;  // clang 14 cannot deduce it

template <typename T>
std::string number_text(T value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end.ptr};
}

template <typename T>
std::string list_text(const std::array<T, 2>& values) {
  return str("[", number_text(values[0]), ", ", number_text(values[1]), "]");
}

bool is_plain_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.' || c == '/';
}

// Quotes for YAML, unless the text consists of plain letters that mean nothing else.
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

// The words of ShardMode::Kind, except for nearby, which is a number.
constexpr auto kShardWords = std::to_array<std::string_view>({"full", "grad", "optim", "hybrid"});

std::string words_text(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view word : words) text += str(text.empty() ? "" : " | ", word);
  return text;
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
  template <typename T>
  void set(T& field, const std::string& text) const {
    const auto number = parse_number<T>(text);
    if (value.quoted || !number || !std::isfinite(static_cast<double>(*number))) wrong_type();
    check_range(static_cast<double>(*number), text);
    field = *number;
  }
  const std::string& scalar() const {
    if (value.is_list) wrong_type();
    return value.items[0];
  }
  [[noreturn]] void no_such_word() const {
    throw UsageError(str(where, ": key '", key.name, "': '", value.items[0], "' is not one of ",
                         type_text(key)));
  }

  void operator()(std::string* field) const { *field = scalar(); }
  void operator()(int64_t* field) const { set(*field, scalar()); }
  void operator()(double* field) const { set(*field, scalar()); }
  void operator()(bool* field) const {
    const std::string& text = scalar();
    if (value.quoted || (text != "true" && text != "false")) wrong_type();
    *field = text == "true";
  }
  template <typename T>
  void operator()(std::array<T, 2>* field) const {
    if (!value.is_list || value.items.size() != field->size()) wrong_type();
    for (size_t i = 0; i < field->size(); ++i) set((*field)[i], value.items[i]);
  }
  void operator()(const WordField& field) const {
    const auto found = std::find(field.words.begin(), field.words.end(), scalar());
    if (found == field.words.end()) no_such_word();
    *field.value = static_cast<uint8_t>(found - field.words.begin());
  }
  void operator()(ShardMode* field) const {
    const std::string& text = scalar();
    const auto word = std::find(kShardWords.begin(), kShardWords.end(), text);
    const auto ranks = parse_number<int64_t>(text);
    if (word != kShardWords.end()) {
      *field = {static_cast<ShardMode::Kind>(word - kShardWords.begin())};
    } else if (ranks && *ranks > 0) {
      *field = {ShardMode::Kind::nearby, *ranks};
    } else {
      no_such_word();
    }
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

std::ostream& operator<<(std::ostream& out, const ShardMode& mode) {
  if (mode.kind == ShardMode::Kind::nearby) return out << mode.ranks;
  return out << kShardWords.at(static_cast<size_t>(mode.kind));
}

bool takes_list(const Key& key) {
  Config config;
  return std::visit(
      Overloaded{[](std::array<double, 2>*) { return true; },
                 [](std::array<int64_t, 2>*) { return true; }, [](const auto&) { return false; }},
      key.field(config));
}

std::string type_text(const Key& key) {
  Config config;
  return std::visit(
      Overloaded{[](std::string*) { return std::string("text"); },
                 [](int64_t*) { return std::string("an integer"); },
                 [](double*) { return std::string("a number"); },
                 [](bool*) { return std::string("true or false"); },
                 [](std::array<double, 2>*) { return std::string("a list of 2 numbers"); },
                 [](std::array<int64_t, 2>*) { return std::string("a list of 2 integers"); },
                 [](const WordField& field) { return words_text(field.words); },
                 [](ShardMode*) { return words_text(kShardWords) + " | a number of ranks"; }},
      key.field(config));
}

std::string value_text(const Key& key, const Config& config) {
  // The table's accessors can read and write; this function only reads.
  return std::visit(
      Overloaded{[](const std::string* text) { return quoted_text(text_of_bytes(*text)); },
                 [](const int64_t* n) { return std::to_string(*n); },
                 [](const double* n) { return number_text(*n); },
                 [](const bool* b) { return std::string(*b ? "true" : "false"); },
                 [](const std::array<double, 2>* list) { return list_text(*list); },
                 [](const std::array<int64_t, 2>* list) { return list_text(*list); },
                 [](const WordField& field) { return std::string(field.words[*field.value]); },
                 [](const ShardMode* mode) { return str(*mode); }},
      key.field(const_cast<Config&>(config)));
}

void set_field(Config& config, const Key& key, const RawValue& value, const std::string& where) {
  std::visit(Setter{key, value, where}, key.field(config));
}

}  // namespace lockstep::train
