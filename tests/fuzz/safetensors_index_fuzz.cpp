// The index of a model in several files, fed with anything: it is refused with an EnvironmentError
// that is fit for a terminal, or it holds what a tree of the same text holds. Neither may take more
// memory than the input justifies.
#include <optional>
#include <string_view>

#include "checkpoint/exchange/safetensors_index.h"
#include "checkpoint/format/strict_json.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;
using namespace lockstep::checkpoint;
using fuzz::require;

std::optional<SafetensorsIndex> read(std::string_view text) {
  fuzz::reset_peak();
  std::optional<SafetensorsIndex> index;
  try {
    index.emplace(text, "input");
  } catch (const EnvironmentError& e) {
    fuzz::require_fit_for_terminal(e.what());
  }
  fuzz::require_justified(text.size());
  return index;
}

// What it should hold, as JSON says that a reader of ours has it; nothing where it should be
// refused.
std::optional<nlohmann::json> expected(std::string_view text) {
  try {
    const nlohmann::json value = parse_strict_json(text, "input");
    if (!value.is_object() || !value.contains("weight_map") || !value["weight_map"].is_object())
      return std::nullopt;
    for (const auto& item : value["weight_map"]) {
      if (!item.is_string()) return std::nullopt;
      const auto& file = item.get_ref<const std::string&>();
      if (file.empty() || file[0] == '.' || file.find('/') != std::string::npos ||
          file.find('\0') != std::string::npos)
        return std::nullopt;
    }
    return value["weight_map"];
  } catch (const EnvironmentError&) {
    return std::nullopt;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::optional<SafetensorsIndex> index = read(text);
  const std::optional<nlohmann::json> map = expected(text);
  if (!index) {
    require(!map, "a good index was refused");
    return 0;
  }
  // Beside the map, what would be refused elsewhere may stand: deep nesting, doubled keys.
  const nlohmann::json known =
      map ? *map : nlohmann::json::parse(text.begin(), text.end())["weight_map"];
  require(known.size() == index->size(), "another number of tensors");
  size_t i = 0;
  for (const auto& item : known.items()) {  // in the order of their keys
    require(item.key() == index->name(i), "another tensor");
    require(item.value() == index->files()[index->file(i)], "in another file");
    ++i;
  }
  return 0;
}
