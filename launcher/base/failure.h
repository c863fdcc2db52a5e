// Failure: who failed first in a job, where, and why.
#pragma once

#include <string>
#include <vector>

namespace lockstep::launcher {

// The first failure of a job.
struct Failure {
  int rank = -1;  // -1: no rank; a node was lost or did not come
  std::string host;
  int pid = 0;
  int exit_code = 0;  // valid if signal is 0
  int signal = 0;
  bool caused_by_peer = false;
  // It stood still (SIGSTOP, a debugger) until others gave up waiting for it. exit_code and signal
  // are those of a rank that gave up.
  bool stopped = false;
  // One line: what the rank said about it, or what was seen from outside.
  std::string reason;
  std::vector<std::string> last_lines;  // of its output
};

// "rank 1 on host a (pid 17): killed by SIGKILL (signal 9)". For a lost node, its reason.
std::string headline(const Failure& failure);

}  // namespace lockstep::launcher
