// Listener: the front door of the rendezvous. It accepts connections itself and hands them on,
// because gRPC 1.51 stops listening for good when it once runs out of file descriptors
// (CVE-2023-4785). It keeps a part of the descriptor table free for its own process: a connection
// beyond that is closed at once, and accepting goes on as soon as there is room again.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::launcher {

class Listener {
 public:
  // Gets an accepted, non-blocking socket and owns it from then on. Called on the listener's
  // thread.
  using OnConnection = std::function<void(int listen_fd, int fd)>;

  // Binds at once; port 0 takes a free one. Throws EnvironmentError with address and reason;
  // AddressInUse where somebody else listens.
  Listener(const std::string& host, int port);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }
  void start(OnConnection on_connection);

 private:
  void run();
  void accept_all(int listen_fd);

  std::vector<int> sockets_;
  int port_ = 0;
  int stop_fd_ = -1;
  // Given up for a moment to be able to refuse a connection when the table is full.
  int spare_fd_ = -1;
  OnConnection on_connection_;
  std::thread thread_;
};

}  // namespace lockstep::launcher
