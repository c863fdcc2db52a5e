#include "train/metrics/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

namespace lockstep::train {
namespace {

// The shortest time between two redraws: faster ones are not visible.
constexpr auto kRedraw = std::chrono::milliseconds(80);

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// "2,310,000"
std::string grouped(double value) {
  if (!std::isfinite(value) || std::abs(value) >= 1e15) return fixed(value, 0);
  std::string text = std::to_string(std::llround(value));
  const size_t first_digit = text[0] == '-' ? 1 : 0;
  for (size_t at = text.size(); at > first_digit + 3;) text.insert(at -= 3, 1, ',');
  return text;
}

int terminal_columns(std::FILE* out) {
  if (const char* columns = std::getenv("COLUMNS")) {
    const int value = std::atoi(columns);
    if (value > 0) return value;
  }
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

ProgressStyle ProgressStyle::detect(std::FILE* out, int64_t log_every) {
  const char* term = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  ProgressStyle style;
  // Under our launcher rank 0 writes to a pipe. LOCKSTEP_TTY says whether the launcher's own output
  // is a terminal.
  const char* launcher_tty = std::getenv("LOCKSTEP_TTY");
  // mpirun gives every rank a terminal, wherever its output really goes.
  const bool own_terminal = ::isatty(::fileno(out)) && !std::getenv("OMPI_COMM_WORLD_RANK");
  const bool terminal = own_terminal || (launcher_tty && std::string_view(launcher_tty) == "1");
  style.live = terminal && term && std::string_view(term) != "dumb";
  style.colour = style.live && !(no_colour && *no_colour);
  style.columns = terminal_columns(out);
  style.log_every = log_every;
  return style;
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto total = static_cast<long long>(std::min(seconds + 0.5, 8.64e8));
  const long long days = total / 86400, hours = total / 3600 % 24, minutes = total / 60 % 60;
  char text[48];
  if (days > 0)
    std::snprintf(text, sizeof text, "%lldd %02lld:%02lld", days, hours, minutes);
  else if (hours > 0)
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", hours, minutes, total % 60);
  else
    std::snprintf(text, sizeof text, "%lld:%02lld", minutes, total % 60);
  return text;
}

std::string progress_text(const StepMetrics& metrics, int64_t total_steps, double seconds_left) {
  std::string text = "step " + std::to_string(metrics.step) + "/" + std::to_string(total_steps) +
                     "  loss " + fixed(metrics.loss, 4);
  if (metrics.val_loss) text += "  val " + fixed(*metrics.val_loss, 4);
  text +=
      "  " + grouped(metrics.items_per_s) + (metrics.items_are_tokens ? " tok/s" : " samples/s");
  if (metrics.mfu) text += "  MFU " + fixed(100 * *metrics.mfu, 1) + "%";
  text += "  mem " + grouped(metrics.peak_mem_mb) + " MB";
  text += "  exposed " + fixed(metrics.comm_exposed_ms, 1) + " ms";
  return text + "  left " + duration_text(seconds_left);
}

Progress::Progress(ProgressScreen screen, int64_t first_step, int64_t total_steps,
                   ProgressStyle style)
    : screen_(std::move(screen)),
      total_steps_(total_steps),
      style_(style),
      first_step_(first_step) {}

Progress::~Progress() { finish(); }

void Progress::update(const StepMetrics& metrics) {
  // Leave out the first step: it includes the warm-up and says little about later ones.
  const double step_s = metrics.step_ms / 1000;
  ++steps_seen_;
  average_step_s_ = steps_seen_ <= 2 ? step_s : 0.9 * average_step_s_ + 0.1 * step_s;
  if (metrics.val_loss) last_val_loss_ = metrics.val_loss;

  StepMetrics shown = metrics;
  if (style_.live) shown.val_loss = last_val_loss_;
  const std::string text = progress_text(
      shown, total_steps_, average_step_s_ * static_cast<double>(total_steps_ - metrics.step));
  const bool first = metrics.step == first_step_ + 1, last = metrics.step >= total_steps_;
  if (style_.live) {
    line_ = text;
    const auto now = Clock::now();
    if (first || last || metrics.val_loss || (now - last_draw_ >= kRedraw && !screen_.behind()))
      draw(now);
  } else if (first || last || metrics.val_loss || metrics.step % style_.log_every == 0) {
    screen_.write(text + "\n");
  }
}

void Progress::message(const std::string& line) {
  if (line_.empty()) return screen_.write(line + "\n");
  last_draw_ = Clock::now();
  screen_.write("\r\033[K" + line + "\n" + drawing());
}

void Progress::finish() {
  if (line_.empty()) return;
  screen_.write(drawing() + "\n");
  line_.clear();
}

void Progress::draw(Clock::time_point now) {
  last_draw_ = now;
  screen_.write(drawing());
}

std::string Progress::drawing() const {
  // Leave one column free, because a full line wraps on some terminals.
  const std::string text = line_.substr(0, static_cast<size_t>(std::max(1, style_.columns - 1)));
  // The step number is bold.
  const size_t bold = style_.colour ? std::min(text.find("  "), text.size()) : 0;
  return "\r\033[K" + (style_.colour ? "\033[1m" + text.substr(0, bold) + "\033[0m" : "") +
         text.substr(bold);
}

}  // namespace lockstep::train
