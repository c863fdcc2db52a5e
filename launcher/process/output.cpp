#include "launcher/process/output.h"

#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::launcher {
namespace {

constexpr size_t kLongestLine = 64 << 10;
constexpr size_t kKeptLineBytes = 500;
// A screen that takes no byte for this long counts as unread.
constexpr auto kUnread = std::chrono::seconds(2);

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd ready{fd, POLLOUT, 0};
      ::poll(&ready, 1, 1000);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

std::string prefix(int rank, int fd) {
  const std::string plain = str("[rank ", rank, "] ");
  if (!::isatty(fd) || std::getenv("NO_COLOR")) return plain;
  // Colours of the terminal's palette, so that they suit its background.
  constexpr int kColours[] = {36, 33, 35, 32, 34, 31};
  return str("\033[", kColours[static_cast<size_t>(rank) % std::size(kColours)], "m", plain,
             "\033[0m");
}

}  // namespace

void LineSplitter::feed(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const size_t take = std::min(end, bytes.size());
    if (rest_.size() + take > kLongestLine) {
      const size_t room = kLongestLine - rest_.size();
      rest_.append(bytes.substr(0, room));
      sink(rest_);
      rest_.clear();
      bytes.remove_prefix(room);
      continue;
    }
    if (end == std::string_view::npos) {
      rest_.append(bytes);
      return;
    }
    if (rest_.empty()) {
      sink(bytes.substr(0, end));
    } else {
      rest_.append(bytes.substr(0, end));
      sink(rest_);
      rest_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
}

void LineSplitter::flush(const Sink& sink) {
  if (!rest_.empty()) sink(rest_);
  rest_.clear();
}

RankOutput::RankOutput(Options options)
    : options_(std::move(options)),
      prefixes_{prefix(options_.rank, STDOUT_FILENO), prefix(options_.rank, STDERR_FILENO)} {
  if (options_.log_file.empty()) return;
  log_fd_ = ::open(options_.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log_fd_ < 0)
    throw EnvironmentError(
        str("[launch] cannot write the log '", options_.log_file, "': ", errno_text(errno)));
}

RankOutput::~RankOutput() {
  if (log_fd_ >= 0) ::close(log_fd_);
}

void RankOutput::remember(std::string_view line) {
  // Drops the part that a progress line drew over.
  while (line.ends_with('\r')) line.remove_suffix(1);
  if (const size_t redrawn = line.rfind('\r'); redrawn != std::string_view::npos)
    line.remove_prefix(redrawn + 1);
  last_lines_.emplace_back(line.substr(0, kKeptLineBytes));
  if (last_lines_.size() > kKeptLines) last_lines_.pop_front();
}

void RankOutput::add_line(std::string_view line, std::string& screen, Show show) {
  remember(line);
  if (log_fd_ >= 0) log_lines_.append(line).append("\n");
  if (show != Show::prefixed) return;
  screen.append(line).append("\n");
}

void RankOutput::write_out(Stream stream, const std::string& screen) {
  if (!screen.empty() && options_.screen) options_.screen->write(stream, screen);
  if (!log_lines_.empty() && !log_failed_ && !write_all(log_fd_, log_lines_)) {
    log_failed_ = true;  // a full disk must not end the job
    log::warn("[launch] the log '", options_.log_file,
              "' is incomplete from here on: ", errno_text(errno));
  }
  log_lines_.clear();
}

bool RankOutput::held_up(Stream stream) const {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  if (show == Show::nothing || !options_.screen || !options_.screen->full(stream)) return false;
  return log_fd_ < 0 || options_.screen->stalled(stream) < kUnread;
}

void RankOutput::feed(Stream stream, std::string_view bytes) {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  const auto index = static_cast<size_t>(stream);
  std::string screen = show == Show::raw ? std::string(bytes) : std::string();
  splitters_[index].feed(bytes, [&](std::string_view line) {
    if (show == Show::prefixed) screen += prefixes_[index];
    add_line(line, screen, show);
  });
  write_out(stream, screen);
}

void RankOutput::finish(Stream stream) {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  const auto index = static_cast<size_t>(stream);
  std::string screen;
  splitters_[index].flush([&](std::string_view line) {
    if (show == Show::prefixed) screen += prefixes_[index];
    add_line(line, screen, show);
  });
  write_out(stream, screen);
}

}  // namespace lockstep::launcher
