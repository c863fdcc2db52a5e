// Which user has the other end of a connection, as the kernel says.
#include "launcher/trust/socket_owner.h"

#include <utility>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace lockstep::launcher {
namespace {

// A connection within this machine.
struct Pair {
  int listener = -1, here = -1, there = -1;
  int port = 0;

  // `listening` and `connecting`: AF_INET or AF_INET6. A socket of IPv6 reaches one of IPv4 by a
  // mapped address.
  Pair(int listening, int connecting) {
    sockaddr_storage address = loopback(listening, listening);
    listener = ::socket(listening, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof address;
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener, 4) != 0)
      return;
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    const in_port_t wire_port = reinterpret_cast<sockaddr_in&>(address).sin_port;
    port = ntohs(wire_port);
    there = ::socket(connecting, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_storage target = loopback(connecting, listening);
    reinterpret_cast<sockaddr_in&>(target).sin_port = wire_port;
    if (::connect(there, reinterpret_cast<sockaddr*>(&target), sizeof target) == 0)
      here = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  }
  ~Pair() {
    for (const int fd : {listener, here, there})
      if (fd >= 0) ::close(fd);
  }

  static sockaddr_storage loopback(int family, int of) {
    sockaddr_storage address{};
    address.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
      reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
      in6_addr& place = reinterpret_cast<sockaddr_in6&>(address).sin6_addr;
      place = in6addr_loopback;
      if (of == AF_INET) place = in6_addr{{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1}}};
    }
    return address;
  }
};

TEST(SocketOwner, of_a_connection_within_this_machine_is_known) {
  const Pair ipv4(AF_INET, AF_INET), mapped(AF_INET, AF_INET6), ipv6(AF_INET6, AF_INET6);
  for (const Pair* pair : {&ipv4, &mapped}) {
    ASSERT_GE(pair->here, 0);
    EXPECT_EQ(peer_user(pair->here), ::geteuid());
    EXPECT_EQ(peer_user(pair->there), ::geteuid());
  }
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  EXPECT_EQ(peer_user(ends[0]), ::geteuid());
  ::close(ends[0]);
  ::close(ends[1]);
  if (ipv6.here < 0) GTEST_SKIP() << "this machine has no IPv6 loopback";
  EXPECT_EQ(peer_user(ipv6.here), ::geteuid());
}

TEST(SocketOwner, of_a_closed_end_is_nobody) {
  Pair pair(AF_INET, AF_INET);
  ASSERT_GE(pair.here, 0);
  ::close(std::exchange(pair.there, -1));
  EXPECT_FALSE(peer_user(pair.here).has_value());
}

TEST(SocketOwner, of_an_own_listener_is_not_foreign) {
  const Pair pair(AF_INET, AF_INET);
  EXPECT_FALSE(foreign_listener("127.0.0.1", pair.port).has_value());
  EXPECT_FALSE(foreign_listener("no-such-host.invalid", pair.port).has_value());
}

}  // namespace
}  // namespace lockstep::launcher
