// Runs one command on each of several hosts through ssh.
//
// ssh passes on no signals. Instead, the remote program watches its standard input, which this
// process holds open: where it ends, whatever the reason, the program must stop (stop_at_end_of()).
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/base/clock.h"

namespace lockstep::launcher {

struct HostCommand {
  std::string host;               // as ssh takes it: "user@host"
  std::vector<std::string> argv;  // the program and its arguments, on that host
};

struct SshOptions {
  std::string program = "ssh";
  std::string folder;  // where the commands run
  // The first line of each remote program's standard input. Not in its arguments, which other users
  // see.
  std::string secret;
  // After the first failure or a request to stop: how long the hosts have to end.
  Duration patience = std::chrono::seconds(150);
};

// Text that a POSIX shell reads as this one word, whatever it contains.
std::string quoted(const std::string& word);

// Returns when all have ended: 0 if all ended with 0, else the code of the first that failed by
// itself. Their output goes to this process's own. A failure of ssh (its exit code 255) is logged
// with the host's name, ends the others, and counts as kFailed. SIGINT, SIGTERM and SIGHUP ask the
// hosts to stop; the same again, after a second or later, ends ssh at once. Throws EnvironmentError
// if ssh cannot be started.
int run_on_hosts(const std::vector<HostCommand>& commands, const SshOptions& options);

// The other side: the secret, which may be empty. Throws EnvironmentError if it does not come.
std::string read_secret();

// The other side as well: from now on this process gets SIGTERM when its standard input ends.
// Standard input is then empty for everyone else.
void stop_at_end_of_input();

}  // namespace lockstep::launcher
