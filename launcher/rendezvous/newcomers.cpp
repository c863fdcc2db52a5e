#include "launcher/rendezvous/newcomers.h"

#include <cerrno>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

struct Peer {
  std::string text, address;
};

Peer peer_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char text[INET6_ADDRSTRLEN] = {};
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    return {str("ipv4:", text, ":", ntohs(in.sin_port)), text};
  }
  const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
  ::inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
  return {str("ipv6:%5B", text, "%5D:", ntohs(in.sin6_port)), text};
}

bool is_closed(int fd) {
  pollfd look{fd, POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace

Newcomers::~Newcomers() {
  const MutexLock lock(mutex_);
  while (!entries_.empty()) drop(entries_.begin(), /*end=*/false);
}

void Newcomers::drop(Entries::iterator entry, bool end) {
  if (end) ::shutdown(entry->fd, SHUT_RDWR);  // gRPC, which owns the connection, sees its end
  ::close(entry->fd);
  if (--of_address_[entry->address] == 0) of_address_.erase(entry->address);
  by_peer_.erase(entry->peer);
  entries_.erase(entry);
}

std::string Newcomers::admit(int fd, Clock::time_point now) {
  const Peer peer = peer_of(fd);
  if (peer.text.empty()) return "the other end is closed";
  tick(now);
  const MutexLock lock(mutex_);
  // A port is used again only after its earlier connection has ended.
  if (const auto earlier = by_peer_.find(peer.text); earlier != by_peer_.end())
    drop(earlier->second, /*end=*/false);
  const auto same = of_address_.find(peer.address);
  if (same != of_address_.end() && same->second >= bounds_.of_address)
    return str("host ", peer.address, " has ", same->second,
               " connections that do not show the job's token");
  if (entries_.size() >= bounds_.all) drop(entries_.begin(), /*end=*/true);
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return errno_text(errno);
  entries_.push_back({copy, peer.text, peer.address, now + bounds_.at_most});
  by_peer_[peer.text] = std::prev(entries_.end());
  ++of_address_[peer.address];
  return "";
}

void Newcomers::prove(const std::string& peer) {
  const MutexLock lock(mutex_);
  if (const auto found = by_peer_.find(peer); found != by_peer_.end())
    drop(found->second, /*end=*/false);
}

void Newcomers::tick(Clock::time_point now) {
  const MutexLock lock(mutex_);
  for (auto each = entries_.begin(); each != entries_.end();) {
    const auto current = each++;
    const bool late = current->until <= now;
    if (late || is_closed(current->fd)) drop(current, /*end=*/late);
  }
}

size_t Newcomers::count() const {
  const MutexLock lock(mutex_);
  return entries_.size();
}

}  // namespace lockstep::launcher
