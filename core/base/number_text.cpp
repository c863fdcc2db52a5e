#include "core/base/number_text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace lockstep {

std::optional<int64_t> parse_size(std::string_view text) {
  struct Unit {
    std::string_view name;
    int64_t bytes;
  };
  constexpr std::array<Unit, 8> kUnits = {{{"", 1},
                                           {"B", 1},
                                           {"KB", 1000},
                                           {"MB", 1000000},
                                           {"GB", 1000000000},
                                           {"KiB", 1 << 10},
                                           {"MiB", 1 << 20},
                                           {"GiB", 1 << 30}}};
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto count = parse_number<int64_t>(text.substr(0, digits));
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                 [&](const Unit& u) { return u.name == text.substr(digits); });
  int64_t bytes = 0;
  if (!count || *count == 0 || unit == kUnits.end()) return std::nullopt;
  if (__builtin_mul_overflow(*count, unit->bytes, &bytes)) return std::nullopt;
  return bytes;
}

std::string size_text(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  // From 999.95 on, %.1f would print "1000.0" in the smaller unit.
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
