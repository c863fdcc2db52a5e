#include "launcher/rendezvous/listener.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "launcher/base/needs.h"
#include "launcher/trust/socket_owner.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {
namespace {

constexpr int kBacklog = 1024;
// If the system does not even let us refuse connections, how long to leave them in the queue.
constexpr int kRetryMs = 50;
constexpr const char* kClosed = "the other end is closed";
// How often to look for newcomers whose time is up.
constexpr int kTickMs = 500;

int open_spare() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

// Newcomers take a part of the descriptors only.
Newcomers::Bounds newcomer_bounds() {
  Newcomers::Bounds bounds;
  const auto room = static_cast<size_t>(file_limit() / 8);
  bounds.all = std::clamp<size_t>(room, 8, bounds.all);
  bounds.of_address = std::clamp<size_t>(bounds.all / 2, 4, bounds.of_address);
  return bounds;
}

bool first_in_a_while() {
  static std::atomic<int64_t> last{INT64_MIN};
  const int64_t now =
      std::chrono::duration_cast<std::chrono::seconds>(Clock::now().time_since_epoch()).count();
  int64_t before = last.load();
  if (before != INT64_MIN && now - before < 5) return false;
  return last.compare_exchange_strong(before, now);
}

// Warns at most once in a few seconds: many connections must not become many lines.
void warn_full(const char* why) {
  if (first_in_a_while())
    log::warn("[rendezvous] refusing new connections: ", why,
              " (limit of open files: ", file_limit(), "; see ulimit -n)");
}

}  // namespace

Listener::Listener(const Endpoint& at, Gate gate)
    : gate_(gate), newcomers_(newcomer_bounds()), port_(at.port) {
  if (at.is_unix())
    bind_unix(at);
  else
    bind_tcp(at);
  stop_fd_ = ::eventfd(0, EFD_CLOEXEC);
  spare_fd_ = open_spare();
}

// An address that begins with a null byte has no file.
void Listener::bind_unix(const Endpoint& at) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = at.host.substr(std::strlen(kUnixSocket));
  check(!name.empty() && name.size() < sizeof address.sun_path - 1, "[rendezvous] '", at.host,
        "' is no name of a Unix socket");
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(fd, kBacklog) != 0) {
    const std::string why = errno_text(errno);
    if (fd >= 0) ::close(fd);
    throw EnvironmentError(str("[rendezvous] cannot listen at ", at.host, ": ", why));
  }
  sockets_.push_back(fd);
}

void Listener::bind_tcp(const Endpoint& at) {
  const std::string& host = at.host;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); error != 0)
    throw EnvironmentError(
        str("[rendezvous] cannot resolve '", host, "' to listen there: ", ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  int error = 0;
  for (const addrinfo* each = addresses.get(); each; each = each->ai_next) {
    const int fd = ::socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      error = errno;
      continue;
    }
    const int on = 1;
    // Do not wait until an earlier run's connections time out.
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (each->ai_family == AF_INET6) ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    sockaddr_storage address{};
    socklen_t size = each->ai_addrlen;
    std::memcpy(&address, each->ai_addr, size);
    uint16_t& slot = each->ai_family == AF_INET
                         ? reinterpret_cast<sockaddr_in*>(&address)->sin_port
                         : reinterpret_cast<sockaddr_in6*>(&address)->sin6_port;
    slot = htons(static_cast<uint16_t>(port_));
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(fd, kBacklog) != 0) {
      error = errno;
      ::close(fd);
      continue;
    }
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(slot);
    sockets_.push_back(fd);
  }
  const std::string where = at.text();
  if (sockets_.empty() && error == EADDRINUSE)
    throw AddressInUse(str("[rendezvous] ", where, " is in use"));
  if (sockets_.empty())
    throw EnvironmentError(str("[rendezvous] cannot listen at ", where, ": ", errno_text(error)));
}

std::string Listener::refusal(int fd) {
  if (gate_ == Gate::proof) return newcomers_.admit(fd, Clock::now());
  const auto user = peer_user(fd);
  if (user == ::geteuid()) return "";
  if (user) return str("it comes from user ", *user, ", and this job is of user ", ::geteuid());
  // One that is closed already needs no word.
  char byte;
  if (::recv(fd, &byte, 1, MSG_PEEK) == 0) return kClosed;
  return "it comes from another machine, and this job has no token: " + how_to_trust();
}

Listener::~Listener() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(stop_fd_, &one, sizeof one);
    thread_.join();
  }
  for (const int fd : sockets_) ::close(fd);
  ::close(stop_fd_);
  if (spare_fd_ >= 0) ::close(spare_fd_);
}

void Listener::start(OnConnection on_connection) {
  on_connection_ = std::move(on_connection);
  thread_ = start_thread("to accept connections", [this] { run(); });
}

void Listener::run() {
  std::vector<pollfd> polls;
  for (const int fd : sockets_) polls.push_back({fd, POLLIN, 0});
  polls.push_back({stop_fd_, POLLIN, 0});
  while (true) {
    const int wait_ms = gate_ == Gate::proof && newcomers_.count() > 0 ? kTickMs : -1;
    if (::poll(polls.data(), polls.size(), wait_ms) < 0 && errno != EINTR)
      return log::error("[rendezvous] poll: ", errno_text(errno));
    if (polls.back().revents != 0) return;
    if (wait_ms >= 0) newcomers_.tick(Clock::now());
    for (size_t i = 0; i < sockets_.size(); ++i)
      if (polls[i].revents != 0) accept_all(sockets_[i]);
  }
}

void Listener::accept_all(int listen_fd) {
  while (true) {
    const int fd = ::accept4(listen_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return;
      warn_full(errno_text(errno).c_str());
      // One free descriptor is enough to take a connection from the queue and close it. Its sender
      // then knows.
      if (spare_fd_ >= 0) ::close(spare_fd_);
      const int refused = ::accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (refused >= 0) ::close(refused);
      spare_fd_ = open_spare();
      if (refused >= 0 && spare_fd_ >= 0) continue;
      pollfd stop{stop_fd_, POLLIN, 0};
      ::poll(&stop, 1, kRetryMs);
      return;
    }
    // The system returns the lowest free descriptor, so its number shows how full the table is.
    const int limit = file_limit();
    if (fd >= limit - reserved_files(limit)) {
      ::close(fd);
      warn_full("too many are open");
      continue;
    }
    if (const std::string why = refusal(fd); !why.empty()) {
      ::close(fd);
      if (why != kClosed && first_in_a_while())
        log::warn("[rendezvous] refused a connection: ", why);
      continue;
    }
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // no effect on a Unix socket
    on_connection_(listen_fd, fd);
  }
}

}  // namespace lockstep::launcher
