#include "core/base/log.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace lockstep::log {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_color_mt("lockstep");
    made->set_pattern("%^%l%$: %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warn: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void set_identity(std::string who) { logger().set_pattern(who.empty() ? "%^%l%$: %v" : "[" + who + "] %^%l%$: %v"); }

void set_level(Level level) { logger().set_level(to_spdlog(level)); }

void set_level_from_environment() {
  const char* asked = std::getenv("LOCKSTEP_LOG_LEVEL");
  if (!asked) return;
  constexpr std::pair<std::string_view, Level> kLevels[] = {
      {"debug", Level::debug}, {"info", Level::info}, {"warn", Level::warn}, {"error", Level::error}};
  const auto* level = std::find_if(std::begin(kLevels), std::end(kLevels), [&](const auto& named) { return named.first == asked; });
  check(level != std::end(kLevels), "LOCKSTEP_LOG_LEVEL must be debug, info, warn or error, got '", asked, "'");
  set_level(level->second);
}

void write(Level level, std::string_view text) { logger().log(to_spdlog(level), "{}", text); }

}  // namespace lockstep::log
