// Two "hosts" of a test: network namespaces with a link between them, for ranks that are forked
// from it. Each has a host name and process numbers of its own. Needs root and `ip`.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/error.h"

namespace lockstep::test {

// Make it before ranks are forked. One at a time in a process.
class TwoHosts {
 public:
  TwoHosts() {
    made_ = run("ip netns add " + name(0)) && run("ip netns add " + name(1)) &&
            run("ip link add " + link(0) + " netns " + name(0) + " type veth peer name " + link(1) +
                " netns " + name(1));
    for (int h = 0; h < 2 && made_; ++h)
      made_ = run("ip -n " + name(h) + " addr add 10.111.0." + std::to_string(h + 1) + "/24 dev " +
                  link(h)) &&
              run("ip -n " + name(h) + " link set " + link(h) + " up") &&
              run("ip -n " + name(h) + " link set lo up");
    // The kernel says so a moment later.
    for (int h = 0; h < 2 && made_; ++h) {
      const Deadline limit = Deadline::after(std::chrono::seconds(20));
      while (!run("ip -n " + name(h) + " link show dev " + link(h) + " | grep -q 'state UP'"))
        if (limit.passed())
          throw EnvironmentError("[two_hosts] the link of " + name(h) + " does not come up");
    }
  }
  ~TwoHosts() {
    for (int h = 0; h < 2; ++h) run("ip netns del " + name(h));
  }
  TwoHosts(const TwoHosts&) = delete;
  TwoHosts& operator=(const TwoHosts&) = delete;

  // False where this user may not make them, or `ip` is missing.
  bool made() const { return made_; }
  static constexpr const char* kSkipped =
      "skipped: two network namespaces cannot be made (needs root and iproute2)";

  // Runs `body` in a process on host 0 or 1; this process waits for it and ends as it does.
  void run_on(int host, const std::function<void()>& body) const {
    const int net = ::open(("/run/netns/" + name(host)).c_str(), O_RDONLY | O_CLOEXEC);
    if (net < 0 || ::setns(net, CLONE_NEWNET) != 0 ||
        ::unshare(CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
        ::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0)  // it lists the network's devices
      throw EnvironmentError("[two_hosts] cannot enter " + name(host) + ": " + errno_text(errno));
    ::close(net);
    const std::string host_name = host == 0 ? "alpha" : "beta";
    if (::sethostname(host_name.data(), host_name.size()) != 0)
      throw EnvironmentError("[two_hosts] sethostname: " + errno_text(errno));
    const pid_t inner = ::fork();
    if (inner == 0) return body();
    int status = 0;
    ::waitpid(inner, &status, 0);
    if (WIFSIGNALED(status)) ::kill(::getpid(), WTERMSIG(status));
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  // Takes the link down on host 0's side, from any process that may.
  void cut() const { run("ip -n " + name(0) + " link set " + link(0) + " down"); }

 private:
  static bool run(const std::string& command) {
    return std::system((command + " > /dev/null 2>&1").c_str()) == 0;
  }
  std::string name(int host) const { return "lockstep-" + id_ + "-" + std::to_string(host); }
  std::string link(int host) const { return "ls" + id_ + (host == 0 ? "a" : "b"); }

  const std::string id_ = std::to_string(::getpid());
  bool made_ = false;
};

}  // namespace lockstep::test
