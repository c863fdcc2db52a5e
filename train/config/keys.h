// The one table of all config keys. Parsing, overrides, texts, digest and documentation read it.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/error.h"
#include "train/config/config.h"

namespace lockstep::train {

// A field with a fixed set of words.
struct WordField {
  uint8_t* value;  // value of an enum
  std::span<const std::string_view> words;
};
using FieldPointer = std::variant<std::string*, int64_t*, double*, bool*, std::array<double, 2>*,
                                  std::array<int64_t, 2>*, WordField, ShardMode*>;

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_excluded = false, max_excluded = false;

  bool contains(double value) const;
  // "> 0", "0 to 1", "at least 1". Empty if everything is allowed.
  std::string text() const;
};

struct Key {
  std::string_view name;  // "train.micro_batch"
  FieldPointer (*field)(Config&);
  std::string_view help;
  KeyScope scope = KeyScope::result;
  Range range = {};  // for numbers, and for each number of a list
};

// In the order of the documentation. The keys of a group are together.
std::span<const Key> keys();
const Key* find_key(std::string_view name);

bool takes_list(const Key& key);
// "an integer", "a number", "text", "true or false", "a list of 2 numbers", "gpt | mlp".
std::string type_text(const Key& key);
// The value as YAML. Quoted if plain text would read back as something else.
std::string value_text(const Key& key, const Config& config);

// A value as it was written, before it has a type.
struct RawValue {
  bool is_list = false;
  bool quoted = false;             // a quoted text is never a number
  std::vector<std::string> items;  // one item if it is not a list
};
// Throws UsageError "WHERE: key 'K' …" for a wrong type, a value out of range, or a word that is
// not a choice.
void set_field(Config& config, const Key& key, const RawValue& value, const std::string& where);

// Keys that do not fit each other; check_config() throws it. A caller that knows where the keys
// were set adds that.
class MisfitError : public UsageError {
 public:
  MisfitError(const std::string& message, std::vector<std::string> keys)
      : UsageError(message), keys_(std::move(keys)) {}
  const std::vector<std::string>& keys() const { return keys_; }

 private:
  std::vector<std::string> keys_;
};

// "WHERE: unknown key 'train.micro_btch'; did you mean 'micro_batch'?"
[[noreturn]] void throw_unknown_key(const std::string& name, const std::string& where);

}  // namespace lockstep::train
