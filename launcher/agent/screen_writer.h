// ScreenWriter: standard output and standard error of the agent, written by a thread of their own each. Who reads them may be slow, or stop
// reading; the agent must meanwhile heed signals and watch its ranks, so its own thread never writes there itself. What the log says
// while a screen lives goes through it as well.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "core/base/clock.h"

namespace lockstep::launcher {

// One of the agent's two streams, and of a rank's.
enum class Stream { output, error };

// Thread-safe. One at a time in a process.
class ScreenWriter {
 public:
  // A stream that has this much to write is full: whoever can wait should not add to it.
  static constexpr size_t kFull = 1 << 20;
  // Beyond this bytes are dropped, and the gap is marked.
  static constexpr size_t kMost = 16 << 20;

  // `on_room` is called on another thread when a stream is not full any more, or when all is written. Throws EnvironmentError where the
  // system grants no threads.
  explicit ScreenWriter(std::function<void()> on_room);
  // Writes what waits, unless nobody takes a byte of it for 1 s.
  ~ScreenWriter();
  ScreenWriter(const ScreenWriter&) = delete;
  ScreenWriter& operator=(const ScreenWriter&) = delete;

  // Never blocks. A screen that nobody reads any more is no reason to end a job, so errors are left aside.
  void write(Stream stream, std::string_view bytes);
  bool full(Stream stream) const;
  // For how long nobody has taken a byte of what waits; zero where nothing does.
  Duration stalled(Stream stream) const;
  bool all_written() const;
  // Drops what waits and what comes later: nobody may be waited for any more.
  void give_up();

 private:
  struct Writer;
  std::shared_ptr<Writer> writers_[2];
};

}  // namespace lockstep::launcher
