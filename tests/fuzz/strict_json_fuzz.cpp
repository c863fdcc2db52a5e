// JSON as checkpoints read it, manifests as well as other programs' config.json and index files,
// fed with anything: it either refuses with an EnvironmentError that is fit for a terminal, or what
// it read obeys the rules and survives being written and read again. Neither may take more memory
// than the input justifies.
#include <algorithm>
#include <string_view>

#include "checkpoint/format/strict_json.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;
using namespace lockstep::checkpoint;
using fuzz::require;

int depth_of(const nlohmann::json& value) {
  int depth = 0;
  for (const auto& item : value) depth = std::max(depth, item.is_structured() ? depth_of(item) : 0);
  return depth + (value.is_structured() ? 1 : 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::reset_peak();
  nlohmann::json value;
  try {
    value = parse_strict_json(text, "input");
  } catch (const EnvironmentError& e) {
    fuzz::require_justified(size);
    fuzz::require_fit_for_terminal(e.what());
    return 0;
  }
  fuzz::require_justified(size);
  require(depth_of(value) <= 16, "deeper than 16 levels");
  require(parse_strict_json(value.dump(), "written") == value, "writing changed the value");
  fuzz::require_fit_for_terminal(shown_value(value), 400);
  return 0;
}
