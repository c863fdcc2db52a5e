// RankOutput: takes a rank's output line by line. It writes lines to the screen with the rank's
// name, writes them to the log file, and keeps the last ones for the report of a failure.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/screen/screen_writer.h"

namespace lockstep::launcher {

// One of a rank's streams. It is shown on the same stream of the agent.
using Stream = ScreenWriter::Stream;

// Cuts bytes into lines. A line of more than 64 KiB comes in pieces, to bound memory.
class LineSplitter {
 public:
  // Gets a line without its newline.
  using Sink = std::function<void(std::string_view line)>;
  void feed(std::string_view bytes, const Sink& sink);
  // Passes on the rest, if the last line had no newline.
  void flush(const Sink& sink);

 private:
  std::string rest_;
};

// How the screen shows one stream of a rank.
enum class Show { nothing, prefixed, raw };

// Used by one thread. Files and the screen get whole lines, so ranks never mix within a line.
class RankOutput {
 public:
  static constexpr size_t kKeptLines = 20;

  // Lines that contain one of the words are copied to the file, with the rank's name.
  struct Copy {
    std::string file;  // empty: none
    std::vector<std::string> words;
  };
  struct Options {
    int rank = 0;
    std::string log_file;             // empty: none; an existing file is appended to
    std::string error_log_file = {};  // of standard error; empty: log_file has it too
    std::string report_file =
        {};  // where the failure that the rank reports is kept; empty: nowhere
    Copy output_copy = {}, error_copy = {};
    Show output = Show::prefixed;
    Show error = Show::prefixed;
    ScreenWriter* screen = nullptr;  // outlives this; null: nothing is shown
  };
  // Throws EnvironmentError if the log file cannot be written.
  explicit RankOutput(Options options);
  ~RankOutput();
  RankOutput(const RankOutput&) = delete;
  RankOutput& operator=(const RankOutput&) = delete;

  void feed(Stream stream, std::string_view bytes);
  // Call it at the end of the stream.
  void finish(Stream stream);

  std::vector<std::string> last_lines() const { return {last_lines_.begin(), last_lines_.end()}; }
  // Where to look for what the rank said last.
  const std::string& log_file() const {
    return options_.error_log_file.empty() ? options_.log_file : options_.error_log_file;
  }
  // Keeps what the rank reported.
  void keep_report(const std::string& report) const;
  // Whether the next read of that stream should wait, because the screen that shows it has more to
  // write than it can. If a log file keeps everything, an unread screen is not waited for.
  bool held_up(Stream stream) const;

 private:
  // A file that gets lines. What cannot be written is missing there, and is said once.
  struct File {
    std::string path;
    int fd = -1;
    bool failed = false;
    std::string lines;  // of the current chunk
    void open();
    void write();
  };
  size_t log_of(Stream stream) const {
    return stream == Stream::error && !options_.error_log_file.empty() ? 1 : 0;
  }
  void add_line(Stream stream, std::string_view line, std::string& screen, Show show);
  void close_files();
  void remember(std::string_view line);
  void write_out(Stream stream, const std::string& screen);

  Options options_;
  File files_[4];  // the log or that of standard output, of standard error, and their copies
  LineSplitter splitters_[2];
  std::string prefixes_[2];  // by stream; coloured if it is a terminal
  std::deque<std::string> last_lines_;
};

}  // namespace lockstep::launcher
