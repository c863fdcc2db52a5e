// ScreenWriter: writes this process's standard output and standard error, each from its own thread.
// A reader may be slow or stop reading. A process that trains or watches ranks must still work and
// react to signals, so its working threads never write there themselves. While a ScreenWriter
// exists, log lines go through it too.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "core/base/clock.h"

namespace lockstep {

// Thread-safe. Only one may exist in a process at a time.
class ScreenWriter {
 public:
  enum class Stream { output, error };
  // A stream with this many bytes waiting is full. A caller that can wait should not add to it.
  static constexpr size_t kFull = 1 << 20;
  // A stream keeps at most this many bytes: the oldest half, which nobody has read yet, and the
  // newest half. It drops whole lines between them and writes in their place how many bytes that
  // were.
  static constexpr size_t kMost = 16 << 20;
  // After a stop or a failure, nobody waits longer than this for a screen that takes no byte.
  static constexpr Duration kUnread = std::chrono::seconds(5);

  // Calls `on_room` on another thread when a stream is no longer full, or when all is written.
  // Throws EnvironmentError if the system refuses the threads.
  explicit ScreenWriter(std::function<void()> on_room = [] {});
  // Writes the waiting bytes, unless nobody takes a byte for 1 s.
  ~ScreenWriter();
  ScreenWriter(const ScreenWriter&) = delete;
  ScreenWriter& operator=(const ScreenWriter&) = delete;

  // Never blocks. Ignores errors: an unreadable screen is no reason to end a job. If `bytes` are
  // whole lines, they reach the system as one or several whole lines.
  void write(Stream stream, std::string_view bytes);
  bool full(Stream stream) const;
  // How long nobody has taken a waiting byte. Zero if no byte waits.
  Duration stalled(Stream stream) const;
  // The longer time of both streams.
  Duration stalled() const;
  bool all_written() const;
  // Whether all is written within `limit`.
  bool wait_until_written(Duration limit) const;
  // Drops waiting and later bytes. For an end that must not wait any longer.
  void give_up();

 private:
  struct Writer;
  std::shared_ptr<Writer> writers_[2];
};

}  // namespace lockstep
