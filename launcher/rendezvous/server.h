// RendezvousServer: serves the membership and the store over gRPC, in the process of the first
// agent.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/lobby.h"
#include "launcher/rendezvous/membership.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {

// Thread-safe. The destructor ends all waiting calls.
class RendezvousServer {
 public:
  // Listens at `at` (port 0: a free one). `lobby` is for a store that a rank serves; the server
  // then tells its run id to the ranks of its own job. `trust` says who may connect. Throws
  // AddressInUse (endpoint.h) or EnvironmentError.
  RendezvousServer(const Endpoint& at, JobShape shape, std::optional<Lobby> lobby = std::nullopt,
                   const Trust& trust = {});
  ~RendezvousServer();
  RendezvousServer(const RendezvousServer&) = delete;
  RendezvousServer& operator=(const RendezvousServer&) = delete;

  int port() const;
  // Sets a value of the store, as a rank does.
  void set_value(const std::string& key, const std::string& value);
  // Waits until no agent takes part any more, so that all have seen how the job ended. Returns
  // false at the limit.
  bool wait_until_empty(Duration limit);
  // For a store with a lobby: waits until all admitted ranks have left. Returns false at the limit.
  bool wait_until_left(Duration limit);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
