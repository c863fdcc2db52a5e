#include "launcher/process/ssh_hosts.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launcher/base/stop_wish.h"
#include "launcher/process/child.h"
#include "launcher/process/stop_signals.h"

namespace lockstep::launcher {
namespace {

constexpr int kSshFailed = 255;
// For the secret, which comes with the connection.
constexpr Duration kSecretLimit = std::chrono::seconds(20);
constexpr size_t kLongestSecret = 1024;

// ssh's options: no questions, and a host that vanished is noticed within 15 s.
constexpr const char* kOptions[] = {"BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5",
                                    "ServerAliveCountMax=3"};

std::string remote_command(const std::string& folder, const std::vector<std::string>& argv) {
  std::string command = str("cd ", quoted(folder), " && exec");
  for (const std::string& word : argv) command.append(" ").append(quoted(word));
  return command;
}

// The ssh of one host.
struct Connection {
  std::string host;
  pid_t pid = -1;
  int pid_fd = -1;
  int input = -1;  // what holds the remote program
  std::optional<int> code;

  void let_go() {
    if (input >= 0) ::close(std::exchange(input, -1));
  }
};

void start(Connection& connection, const SshOptions& options, const std::string& program,
           const std::string& command) {
  std::vector<std::string> words = {options.program};
  for (const char* option : kOptions) words.insert(words.end(), {"-o", option});
  words.insert(words.end(), {"--", connection.host, command});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw EnvironmentError("[hosts] pipe: " + errno_text(errno));
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, ends[0], STDIN_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t all, none;
  ::sigfillset(&all);
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setpgroup(&attributes, 0);  // Ctrl-C is for this process
  ::posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  const int error =
      ::posix_spawn(&connection.pid, program.c_str(), &files, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  ::close(ends[0]);
  connection.input = ends[1];
  if (error != 0) {
    connection.pid = -1;
    throw EnvironmentError(str("[hosts] cannot start '", program, "': ", errno_text(error)));
  }
  connection.pid_fd = static_cast<int>(::syscall(SYS_pidfd_open, connection.pid, 0));
  // A pipe takes it at once. If ssh has ended, its exit code says why.
  const std::string line = options.secret + "\n";
  [[maybe_unused]] const ssize_t written = ::write(connection.input, line.data(), line.size());
}

class Hosts {
 public:
  explicit Hosts(const SshOptions& options) : options_(options) {}
  ~Hosts() {
    for (Connection& each : connections_) {
      each.let_go();
      if (each.pid > 0 && !each.code) ::kill(each.pid, SIGKILL), ::waitpid(each.pid, nullptr, 0);
      if (each.pid_fd >= 0) ::close(each.pid_fd);
    }
  }

  void start_all(const std::vector<HostCommand>& commands) {
    const std::string program = find_program(options_.program);
    for (const HostCommand& command : commands) {
      connections_.emplace_back().host = command.host;
      start(connections_.back(), options_, program, remote_command(options_.folder, command.argv));
    }
  }

  int run() {
    while (std::any_of(connections_.begin(), connections_.end(),
                       [](const Connection& each) { return !each.code; })) {
      wait();
      handle_signals();
      for (Connection& each : connections_) collect(each);
      if (until_ && Clock::now() >= *until_) give_up();
    }
    return result_;
  }

 private:
  void wait() {
    std::vector<pollfd> polls = {{signals_.fd(), POLLIN, 0}};
    for (const Connection& each : connections_)
      if (!each.code) polls.push_back({each.pid_fd, POLLIN, 0});
    int limit = -1;  // a job may run for weeks; each event below sets a limit
    if (until_)
      limit = static_cast<int>(std::max<int64_t>(
          0, std::chrono::ceil<std::chrono::milliseconds>(*until_ - Clock::now()).count()));
    if (::poll(polls.data(), polls.size(), limit) < 0 && errno != EINTR)
      throw EnvironmentError("[hosts] poll: " + errno_text(errno));
  }

  void handle_signals() {
    while (const auto arrival = signals_.next()) {
      switch (wish_.take(arrival->signal, arrival->at)) {
        case StopWish::Meaning::ask:
          log::info("[hosts] asking all hosts to save and stop");
          end_all();
          break;
        case StopWish::Meaning::copy: break;
        case StopWish::Meaning::insist: give_up(); break;
      }
    }
  }

  void collect(Connection& each) {
    int status = 0;
    if (each.code || ::waitpid(each.pid, &status, WNOHANG) != each.pid) return;
    each.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (*each.code == 0) return;
    const bool ssh_failed = *each.code == kSshFailed || !WIFEXITED(status);
    if (ssh_failed && !gave_up_)
      log::error("[hosts] ssh to '", each.host, "' failed (",
                 WIFEXITED(status) ? "exit code " : "signal ",
                 WIFEXITED(status) ? *each.code : WTERMSIG(status), "): its reason is above; try `",
                 options_.program, " ", each.host, " true`, which must work without a question");
    if (result_ == 0) result_ = ssh_failed ? kFailed : *each.code;
    // The agents tell each other what failed. Where ssh failed, nobody does.
    if (ssh_failed) end_all();
    if (!until_) until_ = Clock::now() + options_.patience;
  }

  void end_all() {
    for (Connection& each : connections_) each.let_go();
    if (!until_) until_ = Clock::now() + options_.patience;
  }

  void give_up() {
    for (Connection& each : connections_) {
      if (each.code) continue;
      if (!gave_up_) log::warn("[hosts] '", each.host, "' has not ended: ending its ssh");
      each.let_go();
      ::kill(each.pid, SIGKILL);
    }
    gave_up_ = true;
    until_ = Clock::now() + std::chrono::seconds(5);
    if (result_ == 0) result_ = kFailed;
  }

  const SshOptions& options_;
  StopSignals signals_;
  StopWish wish_;
  std::vector<Connection> connections_;
  std::optional<Clock::time_point> until_;
  bool gave_up_ = false;
  int result_ = 0;
};

}  // namespace

std::string quoted(const std::string& word) {
  std::string out;
  out += '\'';
  for (const char c : word) {
    if (c == '\'') out += "'\\'";
    out += c;
  }
  out += '\'';
  return out;
}

int run_on_hosts(const std::vector<HostCommand>& commands, const SshOptions& options) {
  Hosts hosts(options);
  hosts.start_all(commands);
  return hosts.run();
}

std::string read_secret() {
  const auto until = Clock::now() + kSecretLimit;
  std::string line;
  while (line.size() <= kLongestSecret) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    if (left <= 0) break;
    const int ready = ::poll(&input, 1, static_cast<int>(left));
    char byte = 0;
    const ssize_t got = ready > 0 ? ::read(STDIN_FILENO, &byte, 1) : ready;
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (byte == '\n') return line;
    line += byte;
  }
  throw EnvironmentError(
      "[hosts] no secret came over standard input, which `lockstep run --hosts` "
      "of another host writes there");
}

void stop_at_end_of_input() {
  const int input = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  const int empty = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (input < 0 || empty < 0 || ::dup2(empty, STDIN_FILENO) < 0)
    throw EnvironmentError("[hosts] cannot watch standard input: " + errno_text(errno));
  ::close(empty);
  // The signal must not be handled on that thread: it would be lost while the caller holds signals
  // back in its own.
  const SignalsBlocked blocked;
  std::thread([input] {
    char byte = 0;
    ssize_t got = 1;
    while (got > 0 || (got < 0 && errno == EINTR)) got = ::read(input, &byte, 1);
    ::kill(::getpid(), SIGTERM);
  }).detach();
}

}  // namespace lockstep::launcher
