// Turns YAML text into a Config: yaml-cpp's events, flattened to "group.key", with their places.
#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include <sys/stat.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include "core/base/byte_text.h"
#include "train/config/config.h"
#include "train/config/keys.h"

namespace lockstep::train {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxDepth = 32;

std::string place(const std::string& name, const YAML::Mark& mark) {
  return mark.is_null() ? name : str(name, ":", mark.line + 1, ":", mark.column + 1);
}

// Whether there are keys that start with "name.".
bool is_group(const std::string& name) {
  for (const Key& key : keys())
    if (key.name.substr(0, name.size()) == name && key.name.size() > name.size() &&
        key.name[name.size()] == '.')
      return true;
  return false;
}

// Where each key was last set: "FILE:LINE:COLUMN" or "--set KEY=VALUE".
using Origins = std::map<std::string, std::string>;

// Sets each key as its value arrives. yaml-cpp's parser is recursive, so this class limits the
// nesting depth on the way down.
class ConfigHandler final : public YAML::EventHandler {
 public:
  ConfigHandler(Config& config, const std::string& name, Origins& origins)
      : config_(config), name_(name), origins_(origins) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    scalar(mark, "", true, anchor, /*null=*/true);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "aliases (*name) are not supported: write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    scalar(mark, value, tag == "!", anchor, /*null=*/false);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    enter(mark);
    if (list_) fail(mark, str("key '", key_, "': a list within a list"));
    if (path_.empty()) fail(mark, "expected 'group:' with keys below it, got a list");
    if (!expects_value_) fail(mark, "a list cannot be a key");
    list_ = RawValue{.is_list = true, .quoted = false, .items = {}};
    list_mark_ = mark;
  }
  void OnSequenceEnd() override {
    --depth_;
    const RawValue value = *list_;
    list_.reset();
    set(list_mark_, value);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    enter(mark);
    if (list_) fail(mark, str("key '", key_, "': a map within a list"));
    if (!path_.empty() && !expects_value_) fail(mark, "a map cannot be a key");
    if (expects_value_ && !is_group(key_)) {
      if (!find_key(key_)) throw_unknown_key(key_, place(name_, key_mark_));
      fail(mark,
           str("key '", key_, "': expected ", type_text(*find_key(key_)), ", got keys below it"));
    }
    path_.push_back(expects_value_ ? key_ : "");
    expects_value_ = false;
  }
  void OnMapEnd() override {
    --depth_;
    path_.pop_back();
    expects_value_ = false;
  }

 private:
  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw UsageError(str(place(name_, mark), ": ", what));
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) fail(mark, "anchors (&name) are not supported");
  }
  void enter(const YAML::Mark& mark) {
    if (++depth_ > kMaxDepth) fail(mark, str("nested deeper than ", kMaxDepth, " levels"));
  }

  void scalar(const YAML::Mark& mark, const std::string& value, bool quoted, YAML::anchor_t anchor,
              bool null) {
    refuse_anchor(mark, anchor);
    if (path_.empty()) {
      if (null) return;  // an empty document: all keys keep their defaults
      fail(mark, str("expected 'group:' with keys below it, got '", value, "'"));
    }
    if (list_) {
      list_->quoted = list_->quoted || quoted;
      list_->items.push_back(value);
    } else if (!expects_value_) {
      begin_key(mark, value);
    } else {
      if (null) fail_without_value(mark);
      set(mark, RawValue{.is_list = false, .quoted = quoted, .items = {value}});
    }
  }

  void begin_key(const YAML::Mark& mark, const std::string& name) {
    key_ = path_.back().empty() ? name : path_.back() + "." + name;
    key_mark_ = mark;
    expects_value_ = true;
    // A dotted name is for overrides only: a file would have two ways to write the same
    // key.
    if (name.find('.') != std::string::npos || (!find_key(key_) && !is_group(key_)))
      throw_unknown_key(key_, place(name_, mark));
    if (!seen_.emplace(key_).second) fail(mark, str("key '", key_, "' is there twice"));
  }

  void fail_without_value(const YAML::Mark&) const {
    const Key* key = find_key(key_);
    fail(key_mark_,
         str("key '", key_, "' has no value: expected ", key ? type_text(*key) : "keys below it"));
  }

  void set(const YAML::Mark& mark, RawValue value) {
    expects_value_ = false;
    const Key* key = find_key(key_);
    if (!key) fail(mark, str("key '", key_, "': expected keys below it, got a value"));
    for (std::string& item : value.items) item = bytes_of_text(item);
    set_field(config_, *key, value, place(name_, mark));
    origins_[key_] = place(name_, mark);
  }

  Config& config_;
  const std::string& name_;
  Origins& origins_;
  std::vector<std::string> path_;  // keys of the open maps
  std::set<std::string> seen_;
  std::string key_;  // the last key read, with its group
  YAML::Mark key_mark_, list_mark_;
  bool expects_value_ = false;  // the next event is the value of key_
  std::optional<RawValue> list_;
  size_t depth_ = 0;
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// For a key that takes a list, "[0.9, 0.95]" is a list. For any other key it is a plain value: a
// folder may be named "[x]".
RawValue raw_override(const Key& key, const std::string& text) {
  if (!takes_list(key) || text.size() < 2 || text.front() != '[' || text.back() != ']')
    return {.is_list = false, .quoted = false, .items = {text}};
  RawValue value{.is_list = true, .quoted = false, .items = {}};
  std::istringstream items(text.substr(1, text.size() - 2));
  for (std::string item; std::getline(items, item, ',');) value.items.push_back(trimmed(item));
  return value;
}

// `where` names the source of `text`, which is key=value.
void apply(Config& config, const std::string& text, const std::string& where, Origins& origins) {
  const size_t equals = text.find('=');
  check(equals != std::string::npos && equals > 0, where,
        ": expected key=value, such as train.steps=500");
  const std::string name = text.substr(0, equals);
  const Key* key = find_key(name);
  check(key || !is_group(name), where, ": '", name,
        "' is a group of keys: set one of them, such as train.steps=500");
  if (!key) throw_unknown_key(name, where);
  set_field(config, *key, raw_override(*key, text.substr(equals + 1)), where);
  origins[name] = where;
}

// "FILE:7:16, --set train.micro_batch=5": where the keys of an error were set, or `otherwise` if
// all of them have their defaults.
std::string origins_text(const MisfitError& error, const Origins& origins,
                         const std::string& otherwise) {
  std::string text;
  for (const std::string& key : error.keys())
    if (const auto found = origins.find(key); found != origins.end())
      text += (text.empty() ? "" : ", ") + found->second;
  return text.empty() ? otherwise : text;
}

std::string read_file(const std::string& file) {
  struct stat info {};
  // Call stat() before errno_text(errno): the evaluation order of arguments is unspecified.
  const bool found = ::stat(file.c_str(), &info) == 0;
  check(found, "cannot read config '", file, "': ", errno_text(errno));
  check(S_ISREG(info.st_mode), "cannot read config '", file, "': not a regular file");
  check(info.st_size <= kMaxFileBytes, "config '", file, "' has ", info.st_size, " bytes; at most ",
        kMaxFileBytes, " are read");
  std::string text(static_cast<size_t>(info.st_size), '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  const bool whole = in.good();
  check(whole, "cannot read config '", file, "': ", errno_text(errno));
  return text;
}

// yaml-cpp also reads UTF-16 and UTF-32, which begin with a mark. Without a mark, a zero byte means
// a damaged file, or not a config.
void check_text(const std::string& text, const std::string& name) {
  const size_t zero = text.find('\0');
  if (zero == std::string::npos || text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff") ||
      zero == 0)
    return;
  const auto line =
      1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(zero), '\n');
  throw UsageError(str(name, ":", line, ": not a text file: it holds a zero byte"));
}

// YAML's own message about a tab instead of spaces does not help.
std::string tab_hint(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#' || line.find('\t') >= begin) continue;
    return str(" (line ", number, " is indented with a tab: YAML allows spaces only)");
  }
  return "";
}

void read_document(YAML::Parser& parser, ConfigHandler& handler, const std::string& text,
                   const std::string& name) {
  try {
    parser.HandleNextDocument(handler);
  } catch (const YAML::Exception& e) {
    throw UsageError(str(place(name, e.mark), ": not valid YAML: ", e.msg, tab_hint(text)));
  } catch (const UsageError& e) {
    throw UsageError(e.what() + tab_hint(text));
  }
}

}  // namespace

Config parse_config(const std::string& text, const std::string& name,
                    std::span<const std::string> overrides, std::span<const Preset> presets) {
  Config config;
  Origins origins;
  check(static_cast<int64_t>(text.size()) <= kMaxFileBytes, name, ": at most ", kMaxFileBytes,
        " bytes, got ", text.size());
  check_text(text, name);
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    ConfigHandler handler(config, name, origins);
    read_document(parser, handler, text, name);
    ConfigHandler second(config, name, origins);
    check(!parser.HandleNextDocument(second), name, ": expected one YAML document, got several");
  } catch (const YAML::Exception& e) {
    throw UsageError(str(place(name, e.mark), ": not valid YAML: ", e.msg));
  }
  for (const auto& [assignment, origin] : presets) apply(config, assignment, origin, origins);
  for (const auto& entry : overrides) apply(config, entry, str("--set ", entry), origins);
  try {
    check_config(config);
  } catch (const MisfitError& e) {
    throw UsageError(str(origins_text(e, origins, name), ": ", e.what()));
  }
  return config;
}

Config load_config(const std::string& file, std::span<const std::string> overrides,
                   std::span<const Preset> presets) {
  return parse_config(read_file(file), file, overrides, presets);
}

}  // namespace lockstep::train
