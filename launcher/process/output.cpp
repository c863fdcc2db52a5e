#include "launcher/process/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

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

void RankOutput::File::open() {
  if (path.empty()) return;
  // Output may hold secrets, and a link could make us write into any file of this user.
  fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    throw EnvironmentError(str("[launch] cannot write the log '", path, "': ", errno_text(errno)));
}

void RankOutput::File::write() {
  if (!lines.empty() && !failed && !write_all(fd, lines)) {
    failed = true;  // a full disk must not end the job
    log::warn("[launch] the log '", path, "' is incomplete from here on: ", errno_text(errno));
  }
  lines.clear();
}

RankOutput::RankOutput(Options options)
    : options_(std::move(options)),
      prefixes_{prefix(options_.rank, STDOUT_FILENO), prefix(options_.rank, STDERR_FILENO)} {
  files_[0].path = options_.log_file;
  files_[1].path = options_.error_log_file;
  files_[2].path = options_.output_copy.file;
  files_[3].path = options_.error_copy.file;
  try {
    for (File& file : files_) file.open();
  } catch (...) {
    close_files();
    throw;
  }
}

RankOutput::~RankOutput() { close_files(); }

void RankOutput::close_files() {
  for (File& file : files_)
    if (file.fd >= 0) ::close(std::exchange(file.fd, -1));
}

void RankOutput::keep_report(const std::string& report) const {
  if (options_.report_file.empty() || report.empty()) return;
  const int fd = ::open(options_.report_file.c_str(),
                        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  const bool written = fd >= 0 && write_all(fd, report);
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (!written)
    log::warn("[launch] cannot write '", options_.report_file, "': ", errno_text(reason));
}

void RankOutput::remember(std::string_view line) {
  // Drops the part that a progress line drew over.
  while (line.ends_with('\r')) line.remove_suffix(1);
  if (const size_t redrawn = line.rfind('\r'); redrawn != std::string_view::npos)
    line.remove_prefix(redrawn + 1);
  last_lines_.emplace_back(line.substr(0, kKeptLineBytes));
  if (last_lines_.size() > kKeptLines) last_lines_.pop_front();
}

void RankOutput::add_line(Stream stream, std::string_view line, std::string& screen, Show show) {
  remember(line);
  if (File& log = files_[log_of(stream)]; log.fd >= 0) log.lines.append(line).append("\n");
  if (File& copy = files_[stream == Stream::error ? 3 : 2]; copy.fd >= 0) {
    const Copy& wanted = stream == Stream::error ? options_.error_copy : options_.output_copy;
    if (std::any_of(wanted.words.begin(), wanted.words.end(),
                    [&](const std::string& word) { return line.find(word) != line.npos; }))
      copy.lines.append(str("[rank ", options_.rank, "] ")).append(line).append("\n");
  }
  if (show != Show::prefixed) return;
  screen.append(line).append("\n");
}

void RankOutput::write_out(Stream stream, const std::string& screen) {
  if (!screen.empty() && options_.screen) options_.screen->write(stream, screen);
  for (File& file : files_) file.write();
}

bool RankOutput::held_up(Stream stream) const {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  if (show == Show::nothing || !options_.screen || !options_.screen->full(stream)) return false;
  return files_[log_of(stream)].fd < 0 || options_.screen->stalled(stream) < kUnread;
}

void RankOutput::feed(Stream stream, std::string_view bytes) {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  const auto index = static_cast<size_t>(stream);
  std::string screen = show == Show::raw ? std::string(bytes) : std::string();
  splitters_[index].feed(bytes, [&](std::string_view line) {
    if (show == Show::prefixed) screen += prefixes_[index];
    add_line(stream, line, screen, show);
  });
  write_out(stream, screen);
}

void RankOutput::finish(Stream stream) {
  const Show show = stream == Stream::output ? options_.output : options_.error;
  const auto index = static_cast<size_t>(stream);
  std::string screen;
  splitters_[index].flush([&](std::string_view line) {
    if (show == Show::prefixed) screen += prefixes_[index];
    add_line(stream, line, screen, show);
  });
  write_out(stream, screen);
}

}  // namespace lockstep::launcher
