#include "core/base/log.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <utility>

#include <spdlog/details/null_mutex.h>
#include <spdlog/details/os.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "core/base/mutex.h"

namespace lockstep::log {
namespace {

// Writes to stderr, in colours if it is a terminal, or to the set_sink() callback. It does without
// spdlog's own lock: ours replaces it, and the thread-safety analysis checks ours.
class Sink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  void set(std::function<void(std::string_view line)> write) {
    const MutexLock lock(writing_);
    write_ = std::move(write);
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const MutexLock lock(writing_);
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    std::string line(formatted.data(), formatted.size());
    if (colours_ && message.color_range_end > message.color_range_start) {
      line.insert(message.color_range_end, "\033[m");
      line.insert(message.color_range_start, colour_of(message.level));
    }
    if (write_) return write_(line);
    std::fwrite(line.data(), 1, line.size(), stderr);
    std::fflush(stderr);
  }
  void flush_() override {}
  // set_pattern() ends here, too.
  void set_formatter_(std::unique_ptr<spdlog::formatter> formatter) override {
    const MutexLock lock(writing_);
    formatter_ = std::move(formatter);
  }

  static const char* colour_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::debug: return "\033[36m";
      case spdlog::level::warn: return "\033[33m\033[1m";
      case spdlog::level::err: return "\033[31m\033[1m";
      default: return "\033[32m";
    }
  }

  const bool colours_ =
      spdlog::details::os::in_terminal(stderr) && spdlog::details::os::is_color_terminal();
  Mutex writing_;  // guards formatter_ as well
  std::function<void(std::string_view line)> write_ LOCKSTEP_GUARDED_BY(writing_);
};

Sink& sink() {
  static const auto instance = std::make_shared<Sink>();
  return *instance;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    // The logger only borrows the sink, which lives as long as the process.
    auto made = std::make_shared<spdlog::logger>(
        "lockstep", spdlog::sink_ptr(&sink(), [](spdlog::sinks::sink*) {}));
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

void set_identity(std::string who) {
  logger().set_pattern(who.empty() ? "%^%l%$: %v" : "[" + who + "] %^%l%$: %v");
}

void set_level(Level level) { logger().set_level(to_spdlog(level)); }

void set_level_from_environment() {
  const char* asked = std::getenv("LOCKSTEP_LOG_LEVEL");
  if (!asked) return;
  constexpr std::pair<std::string_view, Level> kLevels[] = {{"debug", Level::debug},
                                                            {"info", Level::info},
                                                            {"warn", Level::warn},
                                                            {"error", Level::error}};
  const auto* level = std::find_if(std::begin(kLevels), std::end(kLevels),
                                   [&](const auto& named) { return named.first == asked; });
  check(level != std::end(kLevels), "LOCKSTEP_LOG_LEVEL must be debug, info, warn or error, got '",
        asked, "'");
  set_level(level->second);
}

void set_sink(std::function<void(std::string_view line)> write) { sink().set(std::move(write)); }

void write(Level level, std::string_view text) { logger().log(to_spdlog(level), "{}", text); }

}  // namespace lockstep::log
