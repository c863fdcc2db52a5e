#include "cli/process/startup.h"

#include <csignal>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/process/stop_signal.h"
#include "core/base/error.h"

namespace lockstep::cli {
namespace {

// If standard output is closed, the next file to be opened gets its number, and everything printed
// would go there. gRPC 1.51 opens an eventfd before main() as a test and leaves it open. This
// counts as closed.
void open_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    char target[32] = {};
    [[maybe_unused]] const ssize_t length =
        ::readlink(str("/proc/self/fd/", fd).c_str(), target, sizeof target - 1);
    if (::fcntl(fd, F_GETFD) >= 0 && std::string_view(target) != "anon_inode:[eventfd]") continue;
    const int null = ::open("/dev/null", O_RDWR);
    if (null == fd || null < 0) continue;
    ::dup2(null, fd);
    ::close(null);
  }
}

// Raises the soft limit to the hard one, which the system grants on request.
void raise_file_size() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

}  // namespace

void prepare_process(std::string_view command) {
  const bool is_run = command == "train" || command == "run";
  open_standard_streams();
  if (command != "run") raise_file_size();
  std::signal(SIGCHLD, SIG_DFL);
  std::signal(SIGXFSZ, SIG_IGN);
  if (is_run) {
    std::signal(SIGPIPE, SIG_IGN);
    // Our agent and similar ones set this variable. Such an agent ends its ranks itself.
    install_stop_signals(std::getenv("LOCKSTEP_ERROR_FILE") ? Impatience::of_agent
                                                            : Impatience::here);
  }
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace lockstep::cli
