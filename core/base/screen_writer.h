// ScreenWriter: this process's standard output and standard error, written by a thread of their own
// each. Who reads them may be slow, or stop reading; a process that trains or watches ranks must
// meanwhile heed signals and do its work, so no thread of the work ever writes there itself. What
// the log says while a screen lives goes through it as well.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "core/base/clock.h"

namespace lockstep {

// Thread-safe. One at a time in a process.
class ScreenWriter {
 public:
  enum class Stream { output, error };
  // A stream that has this much to write is full: whoever can wait should not add to it.
  static constexpr size_t kFull = 1 << 20;
  // A stream keeps no more than this: the oldest half, which nobody has read yet, and the newest.
  // Whole lines between them are dropped, and their place says how many bytes that were.
  static constexpr size_t kMost = 16 << 20;
  // After a stop or a failure nobody waits longer than this for a screen of which no byte is taken.
  static constexpr Duration kUnread = std::chrono::seconds(5);

  // `on_room` is called on another thread when a stream is not full any more, or when all is
  // written. Throws EnvironmentError where the system grants no threads.
  explicit ScreenWriter(std::function<void()> on_room = [] {});
  // Writes what waits, unless nobody takes a byte of it for 1 s.
  ~ScreenWriter();
  ScreenWriter(const ScreenWriter&) = delete;
  ScreenWriter& operator=(const ScreenWriter&) = delete;

  // Never blocks. A screen that nobody can read any more is no reason to end a job, so errors are
  // left aside. `bytes` that are whole lines stay whole, and reach the system line by line or
  // several at once.
  void write(Stream stream, std::string_view bytes);
  bool full(Stream stream) const;
  // For how long nobody has taken a byte of what waits; zero where nothing does.
  Duration stalled(Stream stream) const;
  // The longer one of both streams.
  Duration stalled() const;
  bool all_written() const;
  // Whether all is written within `limit`.
  bool wait_until_written(Duration limit) const;
  // Drops what waits and what comes later: nobody may be waited for any more.
  void give_up();

 private:
  struct Writer;
  std::shared_ptr<Writer> writers_[2];
};

}  // namespace lockstep
