#include "train/exchange/layout.h"

#include <array>

#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"
#include "train/exchange/transformers_keys.h"

namespace lockstep::train {
namespace {

constexpr std::array kLayouts = {&kGpt2Layout, &kLlamaLayout};

const Layout& find(std::string_view Layout::*key, std::string_view value, const std::string& what) {
  std::string known;
  for (const Layout* layout : kLayouts) {
    if (layout->*key == value) return *layout;
    known += (known.empty() ? "" : ", ") + std::string(layout->*key);
  }
  throw UsageError(str(what, " is '", value, "', expected one of ", known));
}

}  // namespace

const Layout& layout_of_format(std::string_view format) {
  return find(&Layout::format, format, "the format");
}
const Layout& layout_of_kind(ModelKind kind) {
  for (const Layout* layout : kLayouts)
    if (layout->kind == kind) return *layout;
  throw UsageError(str("models of kind ", kind, " cannot be exported or imported"));
}

Described parse_config_json(const std::string& text, const std::string& path) {
  const nlohmann::json json = checkpoint::parse_strict_json(text, path);
  const JsonValues values(json, path);
  const Layout& layout =
      find(&Layout::model_type, values.text("model_type", ""), path + ": 'model_type'");
  Described described{layout, layout.from_config_json(values)};
  demand_neutral_keys(values);
  std::vector<std::string_view> irrelevant(irrelevant_keys().begin(), irrelevant_keys().end());
  irrelevant.insert(irrelevant.end(), layout.irrelevant.begin(), layout.irrelevant.end());
  values.refuse_others(irrelevant);
  return described;
}

}  // namespace lockstep::train
