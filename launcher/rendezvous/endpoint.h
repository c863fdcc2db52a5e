// Host names, addresses and ports.
#pragma once

#include <string>

#include "core/base/error.h"

namespace lockstep::launcher {

// Somebody else listens at the address already.
class AddressInUse : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

struct Endpoint {
  std::string host;
  int port = 0;

  // "host:port", with brackets around an IPv6 address.
  std::string text() const;
  // "host", "host:port", "[::1]:port". Throws UsageError.
  static Endpoint parse(const std::string& text, int default_port);
};

// A host as a person writes it where no port belongs: without the brackets that an IPv6 address may
// have. Throws UsageError that names `what` for a host with a port.
std::string bare_host(const std::string& text, const std::string& what);
// Whether `host` is written as this machine's loopback.
bool is_loopback_host(const std::string& host);

// Why nobody can answer at `host`, for the end of such a message: "; its name cannot be resolved:
// …". Empty where it can be.
std::string unresolved(const std::string& host);

std::string host_name();
// Whether `host` is this machine. Throws EnvironmentError where it cannot be resolved.
bool is_local(const std::string& host);
// Where to listen so that others reach `host`, which is this machine: a host name that means
// loopback here (as Debian's installer writes into /etc/hosts) must be listened to on all
// interfaces.
std::string listen_host(const std::string& host);
// A port of `host` (one of this machine's addresses, or empty for all) that was free a moment ago.
int free_port(const std::string& host);

}  // namespace lockstep::launcher
