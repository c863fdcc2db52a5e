// Makes texts from a Config: YAML, the canonical text and its digest, and the table for the
// documentation.
#include <algorithm>
#include <limits>
#include <sstream>

#include "checkpoint/format/digest.h"
#include "train/config/config.h"
#include "train/config/keys.h"

namespace lockstep::train {
namespace {

std::vector<std::string> parts_of(std::string_view name) {
  std::vector<std::string> parts;
  for (size_t dot; (dot = name.find('.')) != std::string_view::npos; name.remove_prefix(dot + 1))
    parts.emplace_back(name.substr(0, dot));
  parts.emplace_back(name);
  return parts;
}

// Splits "key=value" lines.
std::vector<std::pair<std::string, std::string>> pairs_of(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> pairs;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    pairs.emplace_back(line.substr(0, equals),
                       equals == std::string::npos ? "" : line.substr(equals + 1));
  }
  return pairs;
}

}  // namespace

std::string to_yaml(const Config& config) {
  std::string text;
  std::vector<std::string> open;  // groups that contain the last key
  for (const Key& key : keys()) {
    const auto parts = parts_of(key.name);
    size_t common = 0;
    while (common < open.size() && common + 1 < parts.size() && open[common] == parts[common])
      ++common;
    for (size_t i = common; i + 1 < parts.size(); ++i)
      text += std::string(2 * i, ' ') + parts[i] + ":\n";
    open.assign(parts.begin(), parts.end() - 1);
    text +=
        std::string(2 * open.size(), ' ') + parts.back() + ": " + value_text(key, config) + "\n";
  }
  return text;
}

std::string canonical_text(const Config& config, KeyScope scope) {
  std::vector<std::string> lines;
  for (const Key& key : keys())
    if (key.scope >= scope) lines.push_back(str(key.name, "=", value_text(key, config), "\n"));
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const auto& line : lines) text += line;
  return text;
}

std::string config_digest(const Config& config) {
  return checkpoint::sha256_hex(canonical_text(config, KeyScope::result));
}

std::vector<ConfigDifference> differences(std::string_view a, std::string_view b) {
  const std::string absent = "(absent)";
  const auto left = pairs_of(a), right = pairs_of(b);
  std::vector<ConfigDifference> all;
  for (size_t i = 0, j = 0; i < left.size() || j < right.size();) {
    if (j == right.size() || (i < left.size() && left[i].first < right[j].first)) {
      all.push_back({left[i].first, left[i].second, absent});
      ++i;
    } else if (i == left.size() || right[j].first < left[i].first) {
      all.push_back({right[j].first, absent, right[j].second});
      ++j;
    } else {
      if (left[i].second != right[j].second)
        all.push_back({left[i].first, left[i].second, right[j].second});
      ++i, ++j;
    }
  }
  return all;
}

std::string key_table() {
  const Config defaults;
  std::string text = "| key | value | default | meaning |\n|---|---|---|---|\n";
  for (const Key& key : keys()) {
    std::string type = type_text(key);
    for (size_t bar = 0; (bar = type.find(" | ", bar)) != std::string::npos;)
      type.replace(bar, 3, ", ");
    Range shown = key.range;
    // A limit that large is of no interest, so the text leaves it out.
    if (shown.max >= std::numeric_limits<int32_t>::max())
      shown.max = std::numeric_limits<double>::infinity();
    const std::string range = shown.text();
    text += str("| `", key.name, "` | ", type, range.empty() ? "" : ", ", range, " | `",
                value_text(key, defaults), "` | ", key.help, " |\n");
  }
  return text;
}

}  // namespace lockstep::train
