// Logging. It all goes through spdlog, which no header exposes. Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/base/error.h"

namespace lockstep::log {

enum class Level { debug, info, warn, error };

// Lines go to stderr as "[rank 1] warn: text". `who` is the part in brackets; empty for none.
void set_identity(std::string who);
void set_level(Level level);
// Reads LOCKSTEP_LOG_LEVEL: debug, info (the default), warn or error. Throws UsageError for another
// word.
void set_level_from_environment();
void write(Level level, std::string_view text);
// From here on finished lines go to `sink` instead of stderr. An empty function undoes this. `sink`
// must not log.
void set_sink(std::function<void(std::string_view line)> sink);

template <typename... Args>
void debug(const Args&... args) {
  write(Level::debug, str(args...));
}
template <typename... Args>
void info(const Args&... args) {
  write(Level::info, str(args...));
}
template <typename... Args>
void warn(const Args&... args) {
  write(Level::warn, str(args...));
}
template <typename... Args>
void error(const Args&... args) {
  write(Level::error, str(args...));
}

}  // namespace lockstep::log
