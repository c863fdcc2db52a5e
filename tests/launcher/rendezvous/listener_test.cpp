// The rendezvous when the process runs out of file descriptors: gRPC's own listener would never
// accept again after that.
#include <memory>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/server.h"

namespace lockstep::launcher {
namespace {

constexpr auto kLimit = std::chrono::seconds(60);

int connect_raw(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}

// A server in a process with few file descriptors, so that the test's own are enough.
class SmallServer {
 public:
  explicit SmallServer(rlim_t files) {
    int ready[2];
    int hold[2];
    if (::pipe2(ready, O_CLOEXEC) != 0 || ::pipe2(hold, O_CLOEXEC) != 0)
      throw EnvironmentError("pipe: " + errno_text(errno));
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(hold[1]);
      const rlimit limit{files, files};
      ::setrlimit(RLIMIT_NOFILE, &limit);
      RendezvousServer server(Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r"});
      const int port = server.port();
      [[maybe_unused]] ssize_t done = ::write(ready[1], &port, sizeof port);
      char byte = 0;
      done = ::read(hold[0], &byte, 1);  // until the test ends
      ::_exit(0);
    }
    ::close(ready[1]);
    ::close(hold[0]);
    hold_ = hold[1];
    if (::read(ready[0], &port, sizeof port) != sizeof port)
      throw EnvironmentError("the server did not start");
    ::close(ready[0]);
  }
  ~SmallServer() {
    ::close(hold_);
    ::waitpid(pid_, nullptr, 0);
  }
  SmallServer(const SmallServer&) = delete;
  SmallServer& operator=(const SmallServer&) = delete;
  int port = 0;

 private:
  pid_t pid_ = -1;
  int hold_ = -1;
};

// One server for all tests, started before this process has anything of gRPC, which does not
// survive a fork.
class Listener : public testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = std::make_unique<SmallServer>(128); }
  static void TearDownTestSuite() { server_.reset(); }
  static int port() { return server_->port; }

 private:
  static inline std::unique_ptr<SmallServer> server_;
};

TEST_F(Listener, serves_the_old_and_again_the_new_when_descriptors_run_out) {
  GrpcStore old({"127.0.0.1", port()}, "r", 0, kLimit);
  old.set("before", "x");
  for (int flood = 0; flood < 3; ++flood) {
    std::vector<int> connections;
    for (int i = 0; i < 400; ++i)
      if (const int fd = connect_raw(port()); fd >= 0) connections.push_back(fd);
    EXPECT_GT(connections.size(), 128u);
    old.set("during", std::to_string(flood));
    EXPECT_EQ(old.get("before", kLimit), "x");
    for (const int fd : connections) ::close(fd);
    GrpcStore fresh({"127.0.0.1", port()}, "r", 0, kLimit);
    EXPECT_EQ(fresh.get("during", kLimit), std::to_string(flood));
  }
}

TEST_F(Listener, survives_garbage) {
  const int fd = connect_raw(port());
  ASSERT_GE(fd, 0);
  const std::string garbage(100000, '\xff');
  [[maybe_unused]] const ssize_t sent = ::send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL);
  GrpcStore store({"127.0.0.1", port()}, "r", 0, kLimit);
  store.set("k", "v");
  EXPECT_EQ(store.get("k", kLimit), "v");
  ::close(fd);
}

}  // namespace
}  // namespace lockstep::launcher
