#include "core/base/size_text.h"

#include <array>
#include <cstdio>

namespace lockstep {

std::string size_text(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  // 999,950 bytes would read 1000.0 KB.
  while (unit + 1 < kUnits.size() && bytes >= (unit == 0 ? 1000 : 999.95)) {
    bytes /= 1000;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", bytes,
                kUnits.at(unit));
  return text.data();
}

std::string count_text(long long count, const std::string& noun, const char* plural) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : plural);
}

}  // namespace lockstep
