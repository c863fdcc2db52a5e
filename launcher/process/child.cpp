#include "launcher/process/child.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/base/needs.h"
#include "launcher/process/stop_signals.h"

namespace lockstep::launcher {
namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw EnvironmentError("[launch] pipe: " + errno_text(errno));
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    if (read_end >= 0) ::close(read_end);
    if (write_end >= 0) ::close(write_end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int take_read_end() { return std::exchange(read_end, -1); }
  void close_write_end() { ::close(std::exchange(write_end, -1)); }
};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const auto& each : strings) out.push_back(const_cast<char*>(each.c_str()));
  out.push_back(nullptr);
  return out;
}

// Between fork and exec only async-signal-safe calls are allowed, because other threads may have
// held any lock.
[[noreturn]] void become(const ChildSpec& spec, char** argv, char** environment, int output,
                         int error, int report, pid_t parent) {
  const int announce = spec.announce_fd;
  pid_t session = ::setsid();
  [[maybe_unused]] ssize_t written = ::write(announce, &session, sizeof session);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // the agent died before the line above
  // Until setsid(), a signal to the agent's process group came here as well. Ignoring it discards
  // it, because the agent passes its own signals on.
  for (const int signal : kStopSignals) ::signal(signal, SIG_IGN);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t held;
  ::sigemptyset(&held);
  for (const int signal : kStopSignals)
    if (spec.hold_stop_signals) ::sigaddset(&held, signal);
  ::sigprocmask(SIG_SETMASK, &held, nullptr);
  restore_file_limit();
  if (!spec.inherit_input) {
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    if (null > STDERR_FILENO) ::close(null);
  }
  ::dup2(output, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  ::execve(spec.program.c_str(), argv, environment);
  const int why = errno;
  session = -session;
  written = ::write(announce, &session, sizeof session);
  written = ::write(report, &why, sizeof why);
  ::_exit(127);
}

}  // namespace

Child start(const ChildSpec& spec) {
  Pipe output;
  Pipe error;
  Pipe report;  // closed by exec; otherwise it carries errno
  const std::vector<char*> argv = pointers(spec.argv);
  const std::vector<char*> environment = pointers(spec.environment);
  const pid_t parent = ::getpid();
  Child child;
  {
    const SignalsBlocked blocked;
    child.pid = ::fork();
    if (child.pid == 0)
      become(spec, const_cast<char**>(argv.data()), const_cast<char**>(environment.data()),
             output.write_end, error.write_end, report.write_end, parent);
  }
  if (child.pid < 0)
    throw EnvironmentError(
        str("[launch] cannot start '", spec.program, "': fork: ", errno_text(errno)));
  report.close_write_end();
  int why = 0;
  ssize_t got = 0;
  while ((got = ::read(report.read_end, &why, sizeof why)) < 0 && errno == EINTR) {
  }
  child.pid_fd = static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0));
  if (got == sizeof why || child.pid_fd < 0) {
    if (got != sizeof why) why = errno;
    ::kill(child.pid, SIGKILL);
    while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    throw EnvironmentError(str("[launch] cannot start '", spec.program, "': ", errno_text(why)));
  }
  child.output_fd = output.take_read_end();
  child.error_fd = error.take_read_end();
  ::fcntl(child.output_fd, F_SETFL, O_NONBLOCK);
  ::fcntl(child.error_fd, F_SETFL, O_NONBLOCK);
  return child;
}

ExitStatus peek_status(const Child& child) {
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOWAIT) < 0)
    if (errno != EINTR)
      throw EnvironmentError(str("[launch] waitid ", child.pid, ": ", errno_text(errno)));
  ExitStatus status;
  if (info.si_code == CLD_EXITED) {
    status.exit_code = info.si_status;
  } else {
    status.signal = info.si_status;
    status.core_dumped = info.si_code == CLD_DUMPED;
  }
  return status;
}

void reap(Child& child) {
  while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  ::close(std::exchange(child.pid_fd, -1));
}

std::string find_program(const std::string& name) {
  check(!name.empty(), "[launch] no program given");
  const auto usable = [](const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
           ::access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) {
    check(::access(name.c_str(), F_OK) == 0, "[launch] there is no program '", name, "'");
    check(usable(name), "[launch] '", name, "' is not an executable file");
    return name;
  }
  const char* variable = std::getenv("PATH");
  std::string path = variable ? variable : "/usr/local/bin:/usr/bin:/bin";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const std::string folder = end == begin ? "." : path.substr(begin, end - begin);
    if (usable(folder + "/" + name)) return folder + "/" + name;
    begin = end + 1;
  }
  throw UsageError(str("[launch] there is no program '", name, "' in PATH",
                       usable("./" + name) ? str("; did you mean './", name, "'?") : ""));
}

}  // namespace lockstep::launcher
