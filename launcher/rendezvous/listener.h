// Listener: accepts the connections of the rendezvous and hands them to gRPC. gRPC 1.51 must not
// accept itself: it stops listening for good once it runs out of file descriptors (CVE-2023-4785).
// The listener reserves a part of the descriptor table for its process. It closes a connection
// beyond that at once, and accepts again as soon as there is room. It decides who may speak to gRPC
// at all.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/newcomers.h"

namespace lockstep::launcher {

enum class Gate {
  same_user,  // only processes of this user on this machine
  proof,      // anybody, for a moment: Newcomers. The caller calls newcomers().prove()
};

class Listener {
 public:
  // Gets an accepted, non-blocking socket and owns it from then on. Called on the listener's
  // thread.
  using OnConnection = std::function<void(int listen_fd, int fd)>;

  // Binds at once. Port 0 takes a free one. Throws EnvironmentError with address and reason,
  // AddressInUse if another program listens there.
  Listener(const Endpoint& at, Gate gate);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }
  Newcomers& newcomers() { return newcomers_; }
  void start(OnConnection on_connection);

 private:
  void bind_tcp(const Endpoint& at);
  void bind_unix(const Endpoint& at);
  void run();
  void accept_all(int listen_fd);
  // Why this connection may not speak to gRPC, or empty.
  std::string refusal(int fd);

  const Gate gate_;
  Newcomers newcomers_;
  std::vector<int> sockets_;
  int port_ = 0;
  int stop_fd_ = -1;
  // Closed for a moment so that a connection can be refused when the table is full.
  int spare_fd_ = -1;
  OnConnection on_connection_;
  std::thread thread_;
};

}  // namespace lockstep::launcher
