#include "checkpoint/exchange/safetensors_index.h"

#include <algorithm>
#include <map>

#include "checkpoint/files/readable_file.h"
#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMaxIndexBytes = 256 << 20;
constexpr const char* kMap = "weight_map";

bool is_plain_name(std::string_view file) {
  return !file.empty() && file[0] != '.' && file.find('/') == std::string_view::npos &&
         file.find('\0') == std::string_view::npos;
}

}  // namespace

// Collects what it needs while the text is parsed: a JSON tree would take many times the memory.
// Keys beside the map may hold anything.
class SafetensorsIndex::Reader final : public JsonEvents {
 public:
  Reader(SafetensorsIndex& index, const std::string& path) : JsonEvents(path), index_(index) {}

  void check_end() const {
    if (!has_map_)
      throw EnvironmentError(str(path_, ": expected an object with an object '", kMap, "'"));
  }

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a truth value"); }
  bool number_integer(number_integer_t) override { return value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return value("a number"); }
  bool string(string_t& file) override {
    if (!in_map_) return true;
    if (!is_plain_name(file)) fail(shown(file));
    const auto [place, added] =
        numbers_.try_emplace(file, static_cast<uint32_t>(index_.files_.size()));
    if (added) index_.files_.push_back(file);
    index_.tensors_.back().file = place->second;
    return true;
  }

  bool key(string_t& key) override {
    if (in_map_) {
      index_.tensors_.push_back(
          {static_cast<uint32_t>(index_.names_.size()), static_cast<uint32_t>(key.size()), 0});
      index_.names_ += key;
    } else if (depth_ == 1) {
      is_map_ = key == kMap;
      if (is_map_ && has_map_)
        throw EnvironmentError(str(path_, ": the key '", kMap, "' is there twice"));
    }
    return true;
  }
  bool start_object(size_t) override {
    value("an object");
    in_map_ = ++depth_ == 2 && is_map_;
    has_map_ = has_map_ || in_map_;
    return true;
  }
  bool start_array(size_t) override {
    value("a list");
    ++depth_;
    return true;
  }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }

 private:
  [[noreturn]] void fail(const std::string& got) const {
    throw EnvironmentError(str(path_, ": ", shown(index_.name_of(index_.tensors_.back())),
                               ": expected the name of a file in the same folder, got ", got));
  }
  // Handles a value that is not a string.
  bool value(const char* kind) const {
    if (in_map_) fail(kind);
    return true;
  }
  bool end() {
    --depth_;
    in_map_ = false;
    return true;
  }

  SafetensorsIndex& index_;
  std::map<std::string, uint32_t> numbers_;  // numbers of files, by name
  int64_t depth_ = 0;
  bool is_map_ = false;  // whether the last key of the outermost object names the map
  bool in_map_ = false, has_map_ = false;
};

SafetensorsIndex SafetensorsIndex::read(const std::string& path) {
  return {read_text(*open_file(path), kMaxIndexBytes), path};
}

SafetensorsIndex::SafetensorsIndex(std::string_view text, const std::string& path) {
  Reader reader(*this, path);
  reader.parse(text);
  reader.check_end();
  std::sort(tensors_.begin(), tensors_.end(),
            [&](const Tensor& a, const Tensor& b) { return name_of(a) < name_of(b); });
  const auto twice = std::adjacent_find(
      tensors_.begin(), tensors_.end(),
      [&](const Tensor& a, const Tensor& b) { return name_of(a) == name_of(b); });
  if (twice != tensors_.end())
    throw EnvironmentError(str(path, ": the key ", shown(name_of(*twice)), " is there twice"));
}

}  // namespace lockstep::checkpoint
