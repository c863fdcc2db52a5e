// Progress on the screen: one live line on a terminal, plain lines elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/clock.h"
#include "train/metrics/step_metrics.h"

namespace lockstep::train {

struct ProgressStyle {
  bool live = false;  // redraw one line
  bool colour = false;
  int columns = 80;  // a live line is cut to this width
  // Steps between plain lines. The first, the last and every evaluated step are always shown.
  int64_t log_every = 10;

  // The style for `out`: live on a terminal unless TERM=dumb, colour unless NO_COLOR is set, the
  // width from COLUMNS or the terminal.
  static ProgressStyle detect(std::FILE* out, int64_t log_every);
};

// "step 120/1000  loss 1.6421  val 1.7012  2,310 tok/s  MFU 41.2%  mem 182 MB  exposed 1.2 ms
// left 0:42", in one line.
std::string progress_text(const StepMetrics& metrics, int64_t total_steps, double seconds_left);
// "0:42", "1:02:03", "2d 03:04". "?" if it is not finite.
std::string duration_text(double seconds);

// Where progress is shown.
struct ProgressScreen {
  // Gets whole lines, or a whole drawing of the live line.
  std::function<void(std::string_view)> write;
  // Whether earlier output still waits for its reader. The live line is then not drawn again.
  std::function<bool()> behind = [] { return false; };
};

// Not thread-safe.
class Progress {
 public:
  // `first_step`: where this run starts to count (the resumed step).
  Progress(ProgressScreen screen, int64_t first_step, int64_t total_steps, ProgressStyle style);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const StepMetrics& metrics);
  // Prints a separate line. A live line moves below it.
  void message(const std::string& line);
  // Leaves the last live line on the screen and ends it.
  void finish();

 private:
  void draw(Clock::time_point now);
  std::string drawing() const;  // of the live line

  ProgressScreen screen_;
  int64_t total_steps_;
  ProgressStyle style_;
  int64_t first_step_;
  int64_t steps_seen_ = 0;
  double average_step_s_ = 0;            // moving average, for the time left
  std::optional<double> last_val_loss_;  // shown on the live line until the next one
  std::string line_;                     // the live line; empty: none
  Clock::time_point last_draw_{};
};

}  // namespace lockstep::train
