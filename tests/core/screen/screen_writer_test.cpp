// What reaches the reader of a process that writes through a ScreenWriter.
#include "core/screen/screen_writer.h"

#include <cerrno>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep {
namespace {

using Stream = ScreenWriter::Stream;

// Ends of a pipe, or of a pair of sockets.
struct Ends {
  int read = -1, write = -1;
};
Ends make_pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0) << errno_text(errno);
  return {ends[0], ends[1]};
}

// Makes the pipe full: who writes to it now waits for a reader.
void fill(const Ends& ends) {
  ::fcntl(ends.write, F_SETFL, O_NONBLOCK);
  const std::string page(4096, 'x');
  while (::write(ends.write, page.data(), page.size()) > 0) {
  }
  ::fcntl(ends.write, F_SETFL, 0);
}

// A process whose standard output is `output`, and that ends with what `body` returns. `told`:
// whatever it writes to its standard error.
class Process {
 public:
  Process(const Ends& output, const std::function<int()>& body)
      : output_(output), error_(make_pipe()) {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(output_.write, STDOUT_FILENO);
      ::dup2(error_.write, STDERR_FILENO);
      ::_exit(body());
    }
    ::close(output_.write);
    ::close(error_.write);
  }
  ~Process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(output_.read);
    ::close(error_.read);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The next bytes of its output, and of its error output; empty at the end.
  std::string read_output() const { return read_some(output_.read); }
  std::string read_error() const { return read_some(error_.read); }
  std::string all_output() const {
    std::string all;
    for (std::string some = read_output(); !some.empty(); some = read_output()) all += some;
    return all;
  }
  int finish() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  static std::string read_some(int fd) {
    constexpr int kLimitMs = 60000;  // only a hang should reach it
    pollfd ready{fd, POLLIN, 0};
    if (::poll(&ready, 1, kLimitMs) <= 0) {
      ADD_FAILURE() << "nothing came";
      return {};
    }
    std::string bytes(1 << 16, '\0');
    const ssize_t got = ::read(fd, bytes.data(), bytes.size());
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(0, got)));
    return bytes;
  }

  pid_t pid_ = -1;
  Ends output_, error_;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

TEST(ScreenWriter, WritesWhatWaitsBeforeItGoes) {
  const std::string text(40000, 'x');  // less than a pipe holds, so that it takes no reader
  Process process(make_pipe(), [&] {
    ScreenWriter().write(Stream::output, text);
    return 0;
  });
  EXPECT_EQ(process.finish(), 0);
  EXPECT_EQ(process.all_output().size(), text.size());
}

TEST(ScreenWriter, GoesAlthoughNobodyReads) {
  const Ends output = make_pipe();
  fill(output);
  Process process(output, [] {
    ScreenWriter screen;
    screen.write(Stream::output, "unread");
    log::warn("read");
    return 0;
  });
  EXPECT_EQ(process.finish(), 0);
  EXPECT_EQ(process.read_error(), "warning: read\n");
}

TEST(ScreenWriter, WaitsForNoReaderOnceItWasGivenUp) {
  const Ends output = make_pipe();
  fill(output);
  Process process(output, [] {
    ScreenWriter screen;
    screen.give_up();
    screen.write(Stream::output, "unread");
    return screen.all_written() && screen.wait_until_written(kLongestLimit) ? 0 : 1;
  });
  EXPECT_EQ(process.finish(), 0);
}

TEST(ScreenWriter, ALateReaderGetsTheOldestAndTheNewestLinesAndHowMuchIsMissing) {
  constexpr int kLines = 3'000'000;  // 30 MiB
  const auto line = [](int i) { return str("line ", i, '\n'); };
  Process process(make_pipe(), [&] {
    ScreenWriter screen;
    for (int i = 0; i < kLines; ++i) screen.write(Stream::output, line(i));
    screen.write(Stream::error, "written");
    return screen.wait_until_written(kLongestLimit) ? 0 : 1;
  });
  EXPECT_EQ(process.read_error(), "written");  // nobody has read its output until now
  const std::vector<std::string> lines = lines_of(process.all_output());
  EXPECT_EQ(process.finish(), 0);

  size_t at = 0, bytes = 0;
  for (; at < lines.size() && lines[at] + "\n" == line(static_cast<int>(at)); ++at)
    bytes += lines[at].size() + 1;
  EXPECT_GT(bytes, ScreenWriter::kMost / 3);
  ASSERT_LT(at, lines.size()) << "nothing is missing";
  const size_t newest = lines.size() - at - 1;
  size_t missing = 0;
  for (size_t i = at; i < kLines - newest; ++i) missing += line(static_cast<int>(i)).size();
  EXPECT_EQ(lines[at],
            str("[", missing, " bytes are missing here: nobody read them for too long]"));
  bytes = 0;
  for (size_t i = 1; i <= newest; ++i) {
    ASSERT_EQ(lines[at + i] + "\n", line(static_cast<int>(kLines - newest + i - 1)));
    bytes += lines[at + i].size() + 1;
  }
  EXPECT_GT(bytes, ScreenWriter::kMost / 3);
}

TEST(ScreenWriter, OtherWritersCannotGetIntoALine) {
  int sockets[2];
  // Keeps writes apart.
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
  Process process({sockets[0], sockets[1]}, [] {
    const std::string line = std::string(700, 'x') + "\n";
    std::string lines;
    for (int i = 0; i < 40; ++i) lines += line;
    ScreenWriter().write(Stream::output, lines);
    return 0;
  });
  size_t bytes = 0;
  for (std::string written = process.read_output(); !written.empty();
       written = process.read_output()) {
    EXPECT_EQ(written.back(), '\n');
    bytes += written.size();
  }
  EXPECT_EQ(bytes, 40u * 701);
  EXPECT_EQ(process.finish(), 0);
}

}  // namespace
}  // namespace lockstep
