#include "cli/process/screen.h"

#include <cstdio>
#include <memory>

#include "cli/process/stop_signal.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::cli {
namespace {

std::unique_ptr<ScreenWriter> g_screen;

}  // namespace

void open_screen() {
  if (g_screen) return;
  try {
    g_screen = std::make_unique<ScreenWriter>();
  } catch (const EnvironmentError& e) {
    log::warn("this process may have to wait for the reader of its output: ", e.what());
  }
}

ScreenWriter* screen() { return g_screen.get(); }

void print(std::string_view text, ScreenWriter::Stream stream) {
  if (g_screen) return g_screen->write(stream, text);
  std::FILE* const file = stream == ScreenWriter::Stream::output ? stdout : stderr;
  std::fwrite(text.data(), 1, text.size(), file);
  std::fflush(file);
}

void close_screen(int code) {
  constexpr auto kLookAgain = std::chrono::milliseconds(100);
  if (!g_screen) return;
  while (!g_screen->wait_until_written(kLookAgain)) {
    if ((code == 0 && !stop_requested()) || g_screen->stalled() <= ScreenWriter::kUnread) continue;
    g_screen->give_up();
  }
  g_screen.reset();
}

}  // namespace lockstep::cli
