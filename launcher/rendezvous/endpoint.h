// Host names, addresses and ports.
#pragma once

#include <string>

#include "core/base/error.h"

namespace lockstep::launcher {

// Another program listens at the address already.
class AddressInUse : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

// A host and a port, or a Unix socket: its name below kUnixSocket is then the host. Such a socket
// has no file, and only processes of this machine reach it.
struct Endpoint {
  std::string host;
  int port = 0;

  // "host:port", with brackets around an IPv6 address, or "unix-abstract:NAME".
  std::string text() const;
  bool is_unix() const;
  // "host", "host:port", "[::1]:port", "unix-abstract:NAME". Throws UsageError.
  static Endpoint parse(const std::string& text, int default_port);
};

// gRPC's word for Unix sockets without a file.
inline constexpr const char* kUnixSocket = "unix-abstract:";

// Returns the host without the brackets that an IPv6 address may have. For places where no port
// belongs. Throws UsageError that names `what` if there is a port.
std::string bare_host(const std::string& text, const std::string& what);
// Whether `host` is a name or address of this machine's loopback.
bool is_loopback_host(const std::string& host);

// Why nobody can answer at `host`, as the end of a message: "; its name cannot be resolved: …".
// Empty if the name can be resolved.
std::string unresolved(const std::string& host);

std::string host_name();
// Whether `host` is this machine. Throws EnvironmentError if it cannot be resolved.
bool is_local(const std::string& host);
// Where to listen so that others reach `host`, which is this machine. If the host name means
// loopback here (Debian's installer writes that into /etc/hosts), this is all interfaces.
std::string listen_host(const std::string& host);
// A port that was free a moment ago. `host` is an address of this machine, or empty for all of
// them.
int free_port(const std::string& host);

}  // namespace lockstep::launcher
