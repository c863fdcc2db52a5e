// Settings on top of a test's config.
#pragma once

#include <string>
#include <vector>

namespace lockstep::train {

using Overrides = std::vector<std::string>;

// For messages.
inline std::string text(const Overrides& overrides) {
  std::string all;
  for (const auto& o : overrides) all += (all.empty() ? "" : " ") + o;
  return all;
}

}  // namespace lockstep::train
