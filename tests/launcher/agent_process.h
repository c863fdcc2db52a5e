// An agent as a process of its own, with everything that it and its ranks write.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "launcher/launch.h"

namespace lockstep::launcher::test {

// Long: only a hang should reach it, also on a machine that is busy with other things.
constexpr auto kLimit = std::chrono::seconds(60);

// The test program must not have started threads, so nothing of gRPC may run in it.
class AgentProcess {
 public:
  // `before` runs in the agent's process first.
  explicit AgentProcess(
      const LaunchSpec& spec, const std::function<void()>& before = [] {}) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw EnvironmentError("pipe: " + errno_text(errno));
    std::fflush(nullptr);  // what is buffered must not be written by the child as well
    pid_ = ::fork();
    if (pid_ == 0) run(spec, ends[1], before);
    ::close(ends[1]);
    output_fd_ = ends[0];
  }
  ~AgentProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(output_fd_);
  }
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int signal) { ::kill(pid_, signal); }
  const std::string& output() const { return output_; }
  bool says(const std::string& text) const { return output_.find(text) != std::string::npos; }

  // Reads until `text` has been written. False at the end of the output or at the limit.
  bool wait_for(const std::string& text) {
    const Deadline deadline = Deadline::after(kLimit);
    while (!says(text))
      if (!read_some(deadline)) return false;
    return true;
  }

  // The number that follows `text` in the output; 0 if it does not come.
  pid_t number_after(const std::string& text) {
    const Deadline deadline = Deadline::after(kLimit);
    while (true) {
      const size_t at = output_.find(text);
      if (at != std::string::npos && output_.find('\n', at) != std::string::npos)
        return std::atoi(output_.c_str() + at + text.size());
      if (!read_some(deadline)) return 0;
    }
  }

  // Sends a signal again and again, as somebody does who gets impatient, until the agent has closed
  // its output.
  void insist(int signal) {
    const Deadline deadline = Deadline::after(kLimit);
    pollfd poll{output_fd_, POLLIN, 0};
    while (!deadline.passed()) {
      ::kill(pid_, signal);
      if (::poll(&poll, 1, 100) > 0 && !read_some(deadline)) return;
    }
  }

  // Reads to the end and waits: the exit code, or 128 + signal.
  int finish() {
    const Deadline deadline = Deadline::after(kLimit);
    while (read_some(deadline)) {
    }
    if (deadline.passed()) {
      ADD_FAILURE() << "the agent did not end within " << seconds(kLimit) << " s; so far:\n"
                    << output_;
      ::kill(pid_, SIGKILL);
    }
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  [[noreturn]] static void run(const LaunchSpec& spec, int output,
                               const std::function<void()>& before) {
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is ended leaves nothing behind
    before();
    int code = 1;
    try {
      code = launch(spec).exit_code;
    } catch (const UsageError& e) {
      ::dprintf(STDERR_FILENO, "usage error: %s\n", e.what());
      code = 2;
    } catch (const std::exception& e) {
      ::dprintf(STDERR_FILENO, "environment error: %s\n", e.what());
    }
    ::_exit(code);
  }

  bool read_some(const Deadline& deadline) {
    pollfd poll{output_fd_, POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
    if (::poll(&poll, 1, static_cast<int>(left.count())) <= 0) return false;
    char buffer[4096];
    const ssize_t got = ::read(output_fd_, buffer, sizeof buffer);
    if (got > 0) output_.append(buffer, static_cast<size_t>(got));
    return got > 0;
  }

  pid_t pid_ = -1;
  int output_fd_ = -1;
  std::string output_;
};

// Of a file; empty where there is none.
inline std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// For a shell script: ends with exit code 3 and says that this means "saved".
inline const std::string kEndSaved = "echo '{\"saved\": true}' > $LOCKSTEP_ERROR_FILE; exit 3";

// Ranks that run a shell script.
inline LaunchSpec shell(int nproc, const std::string& script) {
  LaunchSpec spec;
  spec.argv = {"/bin/sh", "-c", script};
  spec.nproc = nproc;
  return spec;
}

// A folder with a named pipe "gate", on which ranks wait for one another; removed at the end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = testing::TempDir() + "/lockstep-launch-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr)
      throw EnvironmentError("mkdtemp: " + errno_text(errno));
    path_ = pattern;
    ::mkfifo((path_ + "/gate").c_str(), 0600);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }
  std::string gate() const { return path_ + "/gate"; }

 private:
  std::string path_;
};

// A process that is watched from now on, so that its end is seen even if its number is used again.
class Watched {
 public:
  explicit Watched(pid_t pid) : fd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  ~Watched() {
    if (fd_ >= 0) ::close(fd_);
  }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  bool found() const { return fd_ >= 0; }
  bool ended() const {
    pollfd poll{fd_, POLLIN, 0};
    return ::poll(&poll, 1, static_cast<int>(std::chrono::milliseconds(kLimit).count())) > 0;
  }

 private:
  int fd_;
};

}  // namespace lockstep::launcher::test
