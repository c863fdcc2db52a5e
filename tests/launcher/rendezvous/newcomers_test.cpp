// Connections that have not shown the job's token are few and short.
#include "launcher/rendezvous/newcomers.h"

#include <vector>

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/server.h"

namespace lockstep::launcher {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

constexpr auto kLong = seconds(60);

int connect_from(const char* from, int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in mine{}, theirs{};
  mine.sin_family = theirs.sin_family = AF_INET;
  ::inet_pton(AF_INET, from, &mine.sin_addr);
  theirs.sin_port = htons(static_cast<uint16_t>(port));
  theirs.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&mine), sizeof mine) == 0 &&
      ::connect(fd, reinterpret_cast<sockaddr*>(&theirs), sizeof theirs) == 0)
    return fd;
  ::close(fd);
  return -1;
}

// Accepted connections from addresses of this machine.
class NewcomersTest : public testing::Test {
 protected:
  void SetUp() override {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof in;
    ASSERT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&in), size), 0);
    ASSERT_EQ(::listen(listener_, 64), 0);
    ASSERT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&in), &size), 0);
    port_ = ntohs(in.sin_port);
  }
  void TearDown() override {
    for (const int fd : all_) ::close(fd);
    ::close(listener_);
  }
  struct Connection {
    int here, there;
    std::string peer;
  };
  Connection connection(const char* from = "127.0.0.1") {
    const int there = connect_from(from, port_);
    sockaddr_in in{};
    socklen_t size = sizeof in;
    const int here = ::accept4(listener_, reinterpret_cast<sockaddr*>(&in), &size, SOCK_CLOEXEC);
    all_.insert(all_.end(), {here, there});
    return {here, there, str("ipv4:", from, ":", ntohs(in.sin_port))};
  }
  static bool has_ended(const Connection& connection) {
    pollfd look{connection.there, POLLRDHUP, 0};
    return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP)) != 0;
  }

  const Clock::time_point start_ = Clock::now();
  int listener_ = -1, port_ = 0;
  std::vector<int> all_;
};

TEST_F(NewcomersTest, of_one_host_are_few) {
  Newcomers newcomers({.all = 8, .of_address = 2, .at_most = seconds(20)});
  const Connection first = connection(), second = connection();
  EXPECT_EQ(newcomers.admit(first.here, start_), "");
  EXPECT_EQ(newcomers.admit(second.here, start_), "");
  EXPECT_THAT(newcomers.admit(connection().here, start_),
              HasSubstr("host 127.0.0.1 has 2 connections that do not show the job's token"));
  EXPECT_EQ(newcomers.admit(connection("127.0.0.2").here, start_), "") << "another host";
  newcomers.prove(first.peer);
  EXPECT_EQ(newcomers.admit(connection().here, start_), "");
  EXPECT_FALSE(has_ended(first));
}

TEST_F(NewcomersTest, in_all_are_few_and_the_oldest_makes_room) {
  Newcomers newcomers({.all = 2, .of_address = 2, .at_most = seconds(20)});
  const Connection first = connection("127.0.0.2"), second = connection("127.0.0.3");
  newcomers.admit(first.here, start_);
  newcomers.admit(second.here, start_);
  EXPECT_EQ(newcomers.admit(connection().here, start_), "");
  EXPECT_TRUE(has_ended(first));
  EXPECT_FALSE(has_ended(second));
  EXPECT_EQ(newcomers.count(), 2u);
}

TEST_F(NewcomersTest, that_prove_nothing_in_time_are_ended) {
  Newcomers newcomers({.all = 8, .of_address = 8, .at_most = seconds(20)});
  const Connection idle = connection(), member = connection();
  newcomers.admit(idle.here, start_);
  newcomers.admit(member.here, start_);
  newcomers.prove(member.peer);
  newcomers.tick(start_ + seconds(19));
  EXPECT_FALSE(has_ended(idle));
  newcomers.tick(start_ + seconds(20));
  EXPECT_TRUE(has_ended(idle));
  EXPECT_FALSE(has_ended(member));
  EXPECT_EQ(newcomers.count(), 0u);
}

TEST_F(NewcomersTest, that_have_left_do_not_count) {
  Newcomers newcomers({.all = 8, .of_address = 1, .at_most = seconds(20)});
  const Connection first = connection();
  newcomers.admit(first.here, start_);
  ::shutdown(first.there, SHUT_RDWR);
  EXPECT_EQ(newcomers.admit(connection().here, start_), "");
}

// Everything that a stranger can send before it has shown a token dies in TLS.
TEST(HostileConnections, idle_ones_and_floods_do_not_keep_the_job_from_its_store) {
  const Trust trust{.token = JobToken::random()};
  RendezvousServer server({"127.0.0.1", 0}, JobShape{.run_id = "r"}, std::nullopt, trust);
  const Endpoint at{"127.0.0.1", server.port()};
  GrpcStore store(at, "r", 0, kLong, trust);
  store.set("before", "1");
  // The beginning of a connection of HTTP/2, then one frame over and over: RST_STREAM, or
  // CONTINUATION without an end.
  const std::string preface{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33};
  const std::string reset{"\0\0\4\3\0\0\0\0\1\0\0\0\x8", 13};
  const std::string continuation{"\0\0\1\x9\0\0\0\0\1x", 10};
  std::vector<int> strangers;
  for (int i = 0; i < 600; ++i) {
    const int fd = connect_from("127.0.0.2", at.port);
    if (fd < 0) continue;
    strangers.push_back(fd);
    std::string sent = i % 3 == 0 ? "" : preface;
    for (int repeat = 0; i % 3 != 0 && repeat < 1000; ++repeat)
      sent += i % 3 == 1 ? reset : continuation;
    [[maybe_unused]] const ssize_t done =
        ::send(fd, sent.data(), sent.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  store.set("during", "2");
  GrpcStore fresh(at, "r", 0, kLong, trust);
  EXPECT_EQ(fresh.get("during", kLong), "2");
  // Each flood has been broken off, without a word of HTTP/2.
  for (size_t i = 1; i < strangers.size(); i += 3) {
    char byte;
    EXPECT_LE(::recv(strangers[i], &byte, 1, 0), 0);
  }
  for (const int fd : strangers) ::close(fd);
}

}  // namespace
}  // namespace lockstep::launcher
