#include "core/screen/screen_writer.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <thread>
#include <utility>

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/thread.h"

namespace lockstep {
namespace {

Duration now() { return Clock::now().time_since_epoch(); }

// Smaller than a pipe's buffer, so that a slow reader still sees progress.
constexpr size_t kChunk = 4096;

// If both streams are one file, they share one writer, which keeps the order of the output.
bool same_file(int a, int b) {
  struct stat first {
  }, second{};
  return ::fstat(a, &first) == 0 && ::fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

// How long the destructor waits.
constexpr auto kLastChance = std::chrono::seconds(1);

}  // namespace

// The thread shares ownership and may outlive the screen, because nothing can interrupt a blocking
// write.
struct ScreenWriter::Writer {
  Writer(int descriptor, std::function<void()> room) : fd(descriptor), on_room(std::move(room)) {}

  const int fd;
  const std::function<void()> on_room;
  mutable Mutex mutex;
  Condition changed;
  std::string waiting LOCKSTEP_GUARDED_BY(mutex);  // valid from `begin` on
  size_t begin LOCKSTEP_GUARDED_BY(mutex) = 0;
  size_t dropped LOCKSTEP_GUARDED_BY(mutex) = 0;  // bytes dropped between `waiting` and `newest`
  std::string newest LOCKSTEP_GUARDED_BY(mutex);  // follows the dropped bytes
  // When the oldest waiting byte began to wait, or when the byte before it was written.
  Duration moved_at LOCKSTEP_GUARDED_BY(mutex){};
  // Nobody can read the output any more, or nobody waits for it.
  bool broken LOCKSTEP_GUARDED_BY(mutex) = false;
  bool stopping LOCKSTEP_GUARDED_BY(mutex) = false;

  size_t size() const LOCKSTEP_REQUIRES(mutex) { return waiting.size() - begin + newest.size(); }

  void add(std::string_view bytes) LOCKSTEP_EXCLUDES(mutex) {
    const MutexLock lock(mutex);
    if (broken || stopping || bytes.empty()) return;
    if (size() == 0) moved_at = now();
    if (newest.empty() && dropped == 0) {
      const bool room = waiting.size() - begin + bytes.size() <= kMost / 2;
      // A line that begins in `waiting` must end there.
      const bool at_line = waiting.empty() || waiting.back() == '\n';
      const size_t here = room ? bytes.size() : at_line ? 0 : bytes.find('\n') + 1;
      waiting += bytes.substr(0, here);
      bytes.remove_prefix(here);
    }
    newest += bytes;
    if (newest.size() > kMost / 2) drop_oldest_of_newest();
    changed.notify_all();
  }

  // Drops whole lines if there are any, and many at once, so it happens seldom.
  void drop_oldest_of_newest() LOCKSTEP_REQUIRES(mutex) {
    constexpr size_t kAtOnce = kMost / 16;
    const size_t excess = newest.size() - kMost / 2 + kAtOnce;
    const size_t line = newest.find('\n', excess - 1);
    const size_t end = line == std::string::npos ? excess : line + 1;
    newest.erase(0, end);
    dropped += end;
  }

  // Returns what to write next: whole lines if they fit, as other processes may write there.
  std::string next_chunk() const LOCKSTEP_REQUIRES(mutex) {
    std::string chunk = waiting.substr(begin, kChunk);
    const size_t line = chunk.rfind('\n');
    if (line != std::string::npos) chunk.resize(line + 1);
    return chunk;
  }

  void run() LOCKSTEP_EXCLUDES(mutex) {
    const MutexLock lock(mutex);
    while (true) {
      changed.wait(mutex, [&]() LOCKSTEP_REQUIRES(mutex) { return stopping || size() > 0; });
      if (size() == 0) return;
      const std::string chunk = next_chunk();
      ssize_t written = 0;
      int error = 0;
      {
        const MutexUnlock unlocked(mutex);
        written = ::write(fd, chunk.data(), chunk.size());
        error = written < 0 ? errno : 0;
        if (error == EAGAIN) {
          pollfd ready{fd, POLLOUT, 0};
          ::poll(&ready, 1, 1000);
        }
      }
      if (written >= 0) take(static_cast<size_t>(written));
      if (error == 0 || error == EAGAIN || error == EINTR) continue;
      drop();
    }
  }

  // Drops what waits now and what comes later.
  void drop() LOCKSTEP_REQUIRES(mutex) {
    broken = true;
    newest.clear();
    dropped = 0;
    take(waiting.size() - begin);
  }

  // Call when all of `waiting` is written.
  void go_on_with_newest() LOCKSTEP_REQUIRES(mutex) {
    const bool torn = !waiting.empty() && waiting.back() != '\n';
    begin = 0;
    waiting.clear();
    if (dropped > 0)
      waiting = str(torn ? "\n" : "", "[", std::exchange(dropped, 0),
                    " bytes are missing here: nobody read them for too long]\n");
    waiting += newest;
    newest.clear();
  }

  // The destructor calls this.
  void finish() LOCKSTEP_EXCLUDES(mutex) {
    const MutexLock lock(mutex);
    stopping = true;
    changed.notify_all();
    const Duration began = now();
    const auto last_chance = [&]() LOCKSTEP_REQUIRES(mutex) {
      return Clock::time_point(std::max(began, moved_at) + kLastChance);
    };
    while (size() > 0 && Clock::now() < last_chance()) changed.wait_until(mutex, last_chance());
    drop();
  }

  // Removes `bytes` from what waits, after they were written or dropped.
  void take(size_t bytes) LOCKSTEP_REQUIRES(mutex) {
    const bool was_full = size() >= kFull;
    begin += std::min(bytes, waiting.size() - begin);  // some may have been dropped meanwhile
    moved_at = now();
    if (begin == waiting.size())
      go_on_with_newest();
    else if (begin > kFull)
      waiting.erase(0, std::exchange(begin, 0));
    if (!stopping && ((was_full && size() < kFull) || size() == 0)) on_room();
    changed.notify_all();
  }
};

ScreenWriter::ScreenWriter(std::function<void()> on_room) {
  for (const Stream stream : {Stream::output, Stream::error}) {
    auto& writer = writers_[static_cast<size_t>(stream)];
    writer = stream == Stream::error && same_file(STDOUT_FILENO, STDERR_FILENO)
                 ? writers_[0]
                 : std::make_shared<Writer>(
                       stream == Stream::output ? STDOUT_FILENO : STDERR_FILENO, on_room);
  }
  for (size_t i = 0; i < 2; ++i)
    if (i == 0 || writers_[1] != writers_[0])
      start_thread("to write to the screen", [writer = writers_[i]] { writer->run(); }).detach();
  log::set_sink([this](std::string_view line) { write(Stream::error, line); });
}

ScreenWriter::~ScreenWriter() {
  log::set_sink(nullptr);
  for (auto& writer : writers_) writer->finish();
}

void ScreenWriter::write(Stream stream, std::string_view bytes) {
  writers_[static_cast<size_t>(stream)]->add(bytes);
}

bool ScreenWriter::full(Stream stream) const {
  const Writer& writer = *writers_[static_cast<size_t>(stream)];
  const MutexLock lock(writer.mutex);
  return writer.size() >= kFull;
}

Duration ScreenWriter::stalled(Stream stream) const {
  const Writer& writer = *writers_[static_cast<size_t>(stream)];
  const MutexLock lock(writer.mutex);
  return writer.size() == 0 ? Duration::zero() : now() - writer.moved_at;
}

Duration ScreenWriter::stalled() const {
  return std::max(stalled(Stream::output), stalled(Stream::error));
}

bool ScreenWriter::wait_until_written(Duration limit) const {
  const Deadline deadline = Deadline::after(limit);
  for (const auto& writer : writers_) {
    const MutexLock lock(writer->mutex);
    const auto written = [&]() LOCKSTEP_REQUIRES(writer->mutex) { return writer->size() == 0; };
    if (!writer->changed.wait_until(writer->mutex, deadline.at(), written)) return false;
  }
  return true;
}

bool ScreenWriter::all_written() const {
  for (const auto& writer : writers_) {
    const MutexLock lock(writer->mutex);
    if (writer->size() > 0) return false;
  }
  return true;
}

void ScreenWriter::give_up() {
  for (auto& writer : writers_) {
    const MutexLock lock(writer->mutex);
    writer->drop();
  }
}

}  // namespace lockstep
