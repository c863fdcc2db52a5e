#include "core/device/cuda/sim/settings.h"

#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/base/number_text.h"
#include "core/device/cuda/sim/memory/protection.h"

namespace lockstep::cuda::sim {
namespace {

// The number that `variable` holds, or `otherwise` if it is not set.
int64_t number(const char* variable, int64_t least, int64_t most, int64_t otherwise) {
  const char* text = std::getenv(variable);
  if (!text || !*text) return otherwise;
  const auto value = parse_number<int64_t>(text);
  check(value && *value >= least && *value <= most, variable, ": expected a number from ", least,
        " to ", most, ", got '", text, "'");
  return *value;
}

Protection chosen_protection() {
  const char* text = std::getenv("LOCKSTEP_SIM_PROTECTION");
  if (!text || !*text) return keys_work() ? Protection::keys : Protection::pages;
  const std::string_view value(text);
  check(value == "keys" || value == "pages",
        "LOCKSTEP_SIM_PROTECTION: expected keys or pages, got '", value, "'");
  check(value == "pages" || keys_work(),
        "LOCKSTEP_SIM_PROTECTION=keys: this machine has no protection keys; use pages");
  return value == "keys" ? Protection::keys : Protection::pages;
}

}  // namespace

Settings Settings::read() {
  constexpr int64_t kMostMegabytes = 1000000;
  Settings settings;
  settings.devices = static_cast<int>(number("LOCKSTEP_SIM_DEVICES", 0, 64, settings.devices));
  settings.memory =
      1000000 * number("LOCKSTEP_SIM_MEMORY_MB", 1, kMostMegabytes, settings.memory / 1000000);
  settings.seed = static_cast<uint64_t>(number("LOCKSTEP_SIM_SEED", 0, INT64_MAX, 1));
  settings.protection = chosen_protection();
  return settings;
}

}  // namespace lockstep::cuda::sim
