// RendezvousServer: the membership and the store behind gRPC, in the process of the first agent.
#pragma once

#include <memory>
#include <string>

#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// Thread-safe. The destructor ends all calls that still wait.
class RendezvousServer {
 public:
  // Listens at host:port (0: a free port). Throws AddressInUse (endpoint.h) or EnvironmentError.
  RendezvousServer(const std::string& host, int port, JobShape shape);
  ~RendezvousServer();
  RendezvousServer(const RendezvousServer&) = delete;
  RendezvousServer& operator=(const RendezvousServer&) = delete;

  int port() const;
  // Waits until no agent takes part any more, so that all have seen how the job ended. False at the limit.
  bool wait_until_empty(Duration limit);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
