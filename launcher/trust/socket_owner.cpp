#include "launcher/trust/socket_owner.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace lockstep::launcher {
namespace {

constexpr uint32_t kAnyIpv4 = 0;
constexpr unsigned kEstablished = 1, kListening = 10;

// An address and port. IPv4 addresses are in their IPv6 form, which sockets of both kinds have.
struct Place {
  std::array<unsigned char, 16> address{};
  unsigned port = 0;
  bool operator==(const Place&) const = default;
};

Place mapped(const void* ipv4) {
  Place place;
  place.address[10] = place.address[11] = 0xff;
  std::memcpy(place.address.data() + 12, ipv4, 4);
  return place;
}

std::optional<Place> place_of(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    Place place = mapped(&in.sin_addr);
    place.port = ntohs(in.sin_port);
    return place;
  }
  if (address.ss_family != AF_INET6) return std::nullopt;
  const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
  Place place;
  std::memcpy(place.address.data(), &in.sin6_addr, place.address.size());
  place.port = ntohs(in.sin6_port);
  return place;
}

// A line of the kernel's table of TCP sockets.
struct Entry {
  Place local, remote;
  unsigned state = 0;
  uid_t user = 0;
  unsigned long inode = 0;
};

// "0100007F:1F90": words of the address in the machine's own order, then the port.
std::optional<Place> parse_place(const char* text) {
  const char* colon = std::strchr(text, ':');
  if (!colon) return std::nullopt;
  std::array<uint32_t, 4> words{};
  const size_t count = static_cast<size_t>(colon - text) / 8;
  if (count != 1 && count != 4) return std::nullopt;
  for (size_t i = 0; i < count; ++i)
    if (std::sscanf(text + 8 * i, "%8x", &words[i]) != 1) return std::nullopt;
  Place place;
  if (count == 1)
    place = mapped(words.data());
  else
    std::memcpy(place.address.data(), words.data(), place.address.size());
  return std::sscanf(colon + 1, "%x", &place.port) == 1 ? std::optional(place) : std::nullopt;
}

// Calls `found` for each TCP socket of this network namespace until it returns true.
void each_socket(const std::function<bool(const Entry&)>& found) {
  for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);  // the head
    while (std::getline(file, line)) {
      char local[64], remote[64];
      Entry entry;
      if (std::sscanf(line.c_str(), " %*u: %63s %63s %x %*s %*s %*s %u %*u %lu", local, remote,
                      &entry.state, &entry.user, &entry.inode) != 5)
        continue;
      const auto here = parse_place(local), there = parse_place(remote);
      if (!here || !there) continue;
      entry.local = *here;
      entry.remote = *there;
      if (found(entry)) return;
    }
  }
}

// The socket of this network namespace with these ends. Without a remote end: the one that listens
// there.
bool matches(const Entry& entry, const Place& local, const Place& remote) {
  if (remote.port != 0)
    return entry.local == local && entry.remote == remote && entry.state == kEstablished;
  const bool any =
      entry.local.address == Place{}.address || entry.local.address == mapped(&kAnyIpv4).address;
  return entry.state == kListening && entry.local.port == local.port &&
         (any || entry.local == local);
}

// The kernel's answer about one socket, or an errno.
struct Answer {
  int error = 0;
  Entry entry;
};

bool is_ipv4(const Place& place) {
  return std::equal(place.address.begin(), place.address.begin() + 12,
                    mapped(&kAnyIpv4).address.begin());
}

void put_address(__be32* to, const Place& place) {
  if (is_ipv4(place))
    std::memcpy(to, place.address.data() + 12, 4);
  else
    std::memcpy(to, place.address.data(), 16);
}

// Asks over netlink, which takes microseconds. The tables in /proc take milliseconds.
Answer ask_kernel(const Place& local, const Place& remote) {
  struct Request {
    nlmsghdr head;
    inet_diag_req_v2 body;
  } request{};
  request.head.nlmsg_len = sizeof request;
  request.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.head.nlmsg_flags = NLM_F_REQUEST;
  request.body.sdiag_family = is_ipv4(local) ? AF_INET : AF_INET6;
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_states = ~0u;
  put_address(request.body.id.idiag_src, local);
  if (remote.port != 0) put_address(request.body.id.idiag_dst, remote);
  request.body.id.idiag_sport = htons(static_cast<uint16_t>(local.port));
  request.body.id.idiag_dport = htons(static_cast<uint16_t>(remote.port));
  request.body.id.idiag_cookie[0] = request.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;

  const int fd = ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0) return {.error = errno, .entry = {}};
  const timeval limit{1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  alignas(nlmsghdr) char reply[4096];
  ssize_t got = ::send(fd, &request, sizeof request, 0);
  if (got > 0) got = ::recv(fd, reply, sizeof reply, 0);
  Answer answer{.error = got < 0 ? errno : EPROTO, .entry = {}};
  ::close(fd);
  const auto* head = reinterpret_cast<const nlmsghdr*>(reply);
  if (got < 0 || !NLMSG_OK(head, static_cast<size_t>(got))) return answer;
  if (head->nlmsg_type == NLMSG_ERROR) {
    answer.error = -static_cast<const nlmsgerr*>(NLMSG_DATA(head))->error;
  } else if (head->nlmsg_type == SOCK_DIAG_BY_FAMILY) {
    const auto* found = static_cast<const inet_diag_msg*>(NLMSG_DATA(head));
    answer = {.error = 0,
              .entry = {.local = local,
                        .remote = remote,
                        .state = found->idiag_state,
                        .user = found->idiag_uid,
                        .inode = found->idiag_inode}};
  }
  return answer;
}

std::optional<Entry> find_socket(const Place& local, const Place& remote) {
  // A kernel without this service says the same as one without such a socket.
  static std::atomic<bool> has_service{false};
  const Answer answer = ask_kernel(local, remote);
  if (answer.error == 0) {
    has_service = true;
    const unsigned wanted = remote.port != 0 ? kEstablished : kListening;
    return answer.entry.state == wanted ? std::optional(answer.entry) : std::nullopt;
  }
  std::optional<Entry> found;
  if (answer.error == ENOENT && has_service) return found;
  each_socket([&](const Entry& entry) {
    if (matches(entry, local, remote)) found = entry;
    return found.has_value();
  });
  return found;
}

}  // namespace

std::optional<uid_t> peer_user(int fd) {
  sockaddr_storage mine{}, theirs{};
  socklen_t size = sizeof mine;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&mine), &size) != 0) return std::nullopt;
  if (mine.ss_family == AF_UNIX) {
    ucred who{};
    size = sizeof who;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return std::nullopt;
    return who.uid;
  }
  size = sizeof theirs;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&theirs), &size) != 0) return std::nullopt;
  const auto here = place_of(mine), there = place_of(theirs);
  if (!here || !there) return std::nullopt;
  const auto peer = find_socket(*there, *here);
  // A socket without an inode is of no process any more, and shows user 0.
  return peer && peer->inode != 0 ? std::optional(peer->user) : std::nullopt;
}

std::optional<uid_t> foreign_listener(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* resolved = nullptr;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &resolved) != 0) return std::nullopt;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(resolved, &::freeaddrinfo);
  for (const addrinfo* each = resolved; each; each = each->ai_next) {
    sockaddr_storage address{};
    std::memcpy(&address, each->ai_addr, each->ai_addrlen);
    auto place = place_of(address);
    if (!place) continue;
    place->port = static_cast<unsigned>(port);
    const auto listener = find_socket(*place, Place{});
    if (listener && listener->user != ::geteuid()) return listener->user;
  }
  return std::nullopt;
}

}  // namespace lockstep::launcher
