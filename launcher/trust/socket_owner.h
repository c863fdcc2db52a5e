// Which user has the other end of a connection within this machine. The kernel knows.
#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

namespace lockstep::launcher {

// The user of the process that connected to `fd`, a Unix or TCP socket. Nothing if the other end is
// not in this network namespace, or is closed already.
std::optional<uid_t> peer_user(int fd);

// The user whose socket listens at host:port of this machine, if that is not this process's user.
std::optional<uid_t> foreign_listener(const std::string& host, int port);

}  // namespace lockstep::launcher
