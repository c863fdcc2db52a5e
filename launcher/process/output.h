// RankOutput: what a rank writes, line by line: to the screen with the rank's name before it, to
// its log file, and the last lines into memory for the report of a failure.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/screen_writer.h"

namespace lockstep::launcher {

// One of a rank's streams, and of the agent's, where it is shown.
using Stream = ScreenWriter::Stream;

// Cuts bytes into lines. A line of more than 64 KiB comes in pieces, so that memory stays bounded.
class LineSplitter {
 public:
  // Gets a line without its newline.
  using Sink = std::function<void(std::string_view line)>;
  void feed(std::string_view bytes, const Sink& sink);
  // The rest, if the last line had no newline.
  void flush(const Sink& sink);

 private:
  std::string rest_;
};

// How one stream of a rank gets to the screen.
enum class Show { nothing, prefixed, raw };

// Used by one thread. Files and screen are written whole lines at a time, so ranks never mix within
// a line.
class RankOutput {
 public:
  static constexpr size_t kKeptLines = 20;

  struct Options {
    int rank = 0;
    std::string log_file;  // empty: none; otherwise it is appended to
    Show output = Show::prefixed;
    Show error = Show::prefixed;
    ScreenWriter* screen = nullptr;  // outlives this; null: nothing is shown
  };
  // Throws EnvironmentError where the log file cannot be written.
  explicit RankOutput(Options options);
  ~RankOutput();
  RankOutput(const RankOutput&) = delete;
  RankOutput& operator=(const RankOutput&) = delete;

  void feed(Stream stream, std::string_view bytes);
  // The stream has ended.
  void finish(Stream stream);

  std::vector<std::string> last_lines() const { return {last_lines_.begin(), last_lines_.end()}; }
  const std::string& log_file() const { return options_.log_file; }
  // Whether what it reads next of that stream should wait: the screen, which is to show it, has
  // more than it can write. Where a log file keeps all of it, a screen that nobody reads is not
  // waited for.
  bool held_up(Stream stream) const;

 private:
  void add_line(std::string_view line, std::string& screen, Show show);
  void remember(std::string_view line);
  void write_out(Stream stream, const std::string& screen);

  Options options_;
  int log_fd_ = -1;
  bool log_failed_ = false;
  LineSplitter splitters_[2];
  std::string prefixes_[2];  // by stream, with colours where it is a terminal
  std::string log_lines_;    // of the chunk at hand
  std::deque<std::string> last_lines_;
};

}  // namespace lockstep::launcher
