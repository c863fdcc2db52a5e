// Who gets in: TLS with the job's token, processes of the same user, and nobody else.
#include <optional>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/base/random_id.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/client.h"
#include "launcher/rendezvous/server.h"
#include "launcher/trust/job_identity.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr auto kLong = std::chrono::seconds(60);
constexpr uid_t kSomebody = 4321;

struct Served {
  explicit Served(Trust trust, Endpoint at = {"127.0.0.1", 0})
      : server(at, JobShape{.run_id = "r"}, std::nullopt, trust),
        endpoint(at.is_unix() ? at : Endpoint{at.host, server.port()}) {}
  RendezvousServer server;
  Endpoint endpoint;
};

Node node() {
  Node node;
  node.node_id = "n";
  node.slots = 1;
  return node;
}

Trust with(const JobToken& token) { return {.token = token}; }
Endpoint unix_socket() { return {str(kUnixSocket, "lockstep-test-", random_id()), 0}; }

int connect_raw(const Endpoint& at) {
  const int fd = ::socket(at.is_unix() ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(static_cast<uint16_t>(at.port));
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  const std::string name = at.is_unix() ? at.host.substr(std::string(kUnixSocket).size()) : "";
  name.copy(un.sun_path + 1, name.size());
  const auto* address =
      at.is_unix() ? reinterpret_cast<sockaddr*>(&un) : reinterpret_cast<sockaddr*>(&in);
  const size_t size = at.is_unix() ? offsetof(sockaddr_un, sun_path) + 1 + name.size() : sizeof in;
  if (::connect(fd, address, static_cast<socklen_t>(size)) == 0) return fd;
  ::close(fd);
  return -1;
}

// The bytes with which a connection of HTTP/2 begins.
const std::string kPreface{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33};

// Whether the server answers a preface of HTTP/2 before it breaks off. Waits for one of both.
bool speaks_http2(int fd) {
  [[maybe_unused]] const ssize_t sent = ::send(fd, kPreface.data(), kPreface.size(), MSG_NOSIGNAL);
  char byte = 0;
  return ::recv(fd, &byte, 1, 0) == 1;
}

// The same as another user of this machine.
bool speaks_http2_to(const Endpoint& at, uid_t user) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setuid(user) != 0) ::_exit(2);
    const int fd = connect_raw(at);
    ::_exit(fd >= 0 && speaks_http2(fd) ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
    throw EnvironmentError("the other user's process failed");
  return WEXITSTATUS(status) == 0;
}

TEST(Trust, processes_with_the_token_share_a_store_over_tls) {
  const JobToken token = JobToken::random();
  Served served(with(token));
  GrpcStore store(served.endpoint, "r", 0, kLong, with(token));
  store.set("k", "v");
  EXPECT_EQ(store.get("k", kLong), "v");
  // gRPC sees no byte of HTTP/2 that did not come through TLS.
  const int fd = connect_raw(served.endpoint);
  ASSERT_GE(fd, 0);
  EXPECT_FALSE(speaks_http2(fd));
  ::close(fd);
}

TEST(Trust, without_the_jobs_token_nobody_gets_in_and_learns_why_soon) {
  const JobToken token = JobToken::random();
  Served served(with(token));
  const JobToken other = JobToken::random();
  for (const JobToken* theirs : {&other, static_cast<const JobToken*>(nullptr)}) {
    const Trust trust = theirs ? with(*theirs) : Trust{};
    const std::string store =
        error_of([&] { GrpcStore(served.endpoint, "r", 0, std::chrono::hours(1), trust); });
    RendezvousClient client(
        served.endpoint, "r", [] {}, {}, trust);
    const std::string agent =
        error_of([&] { client.join(node(), 1, 0, std::chrono::hours(1), [] { return true; }); });
    for (const std::string& error : {store, agent}) {
      EXPECT_THAT(error, AllOf(HasSubstr("LOCKSTEP_JOB_TOKEN_FILE"),
                               HasSubstr(theirs ? "has another token" : "without a token"),
                               Not(HasSubstr(token.text())), Not(HasSubstr("'r'"))));
    }
  }
  // The job is not harmed.
  GrpcStore(served.endpoint, "r", 0, kLong, with(token)).set("k", "v");
}

// A stranger need not look at the server's certificate.
TEST(Trust, over_tls_without_the_jobs_certificate_nobody_gets_in) {
  const JobToken token = JobToken::random();
  Served served(with(token));
  const JobIdentity own = identity_of(JobToken::random());
  const std::string root = identity_of(token).certificate;
  for (const grpc::SslCredentialsOptions& options :
       {grpc::SslCredentialsOptions{root, "", ""},
        grpc::SslCredentialsOptions{root, own.key, own.certificate}}) {
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride(kJobName);
    const auto stub = proto::KeyValue::NewStub(grpc::CreateCustomChannel(
        served.endpoint.text(), grpc::SslCredentials(options), arguments));
    proto::SetRequest request;
    request.set_run_id("r");
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kLong);
    proto::SetReply reply;
    EXPECT_EQ(stub->Set(&context, request, &reply).error_code(), grpc::StatusCode::UNAVAILABLE);
  }
}

TEST(Trust, a_process_with_a_token_does_not_speak_to_a_server_without_one) {
  Served served({});
  const Trust mine = with(JobToken::random());
  EXPECT_THAT(error_of([&] { GrpcStore(served.endpoint, "r", 0, std::chrono::hours(1), mine); }),
              HasSubstr("has no token, but this process has one"));
}

TEST(Trust, without_a_token_only_the_same_user_gets_in) {
  for (const Endpoint& at : {Endpoint{"127.0.0.1", 0}, unix_socket()}) {
    Served served({}, at);
    const int fd = connect_raw(served.endpoint);
    ASSERT_GE(fd, 0);
    EXPECT_TRUE(speaks_http2(fd)) << at.text();
    ::close(fd);
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
    EXPECT_FALSE(speaks_http2_to(served.endpoint, kSomebody)) << at.text();
    GrpcStore store(served.endpoint, "r", 0, kLong);
    store.set("k", "v");
    EXPECT_EQ(store.get("k", kLong), "v");
  }
}

TEST(Trust, another_users_listener_is_not_spoken_to) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const int port = free_port("127.0.0.1");
  int ready[2], hold[2];
  ASSERT_EQ(::pipe(ready) + ::pipe(hold), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(hold[1]);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<uint16_t>(port));
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    // The user counts who makes the socket.
    const bool done = ::setuid(kSomebody) == 0;
    const int own = ::socket(AF_INET, SOCK_STREAM, 0);
    ::close(fd);
    const char byte = done && ::bind(own, reinterpret_cast<sockaddr*>(&in), sizeof in) == 0 &&
                              ::listen(own, 8) == 0
                          ? 1
                          : 0;
    [[maybe_unused]] ssize_t moved = ::write(ready[1], &byte, 1);
    char end = 0;
    moved = ::read(hold[0], &end, 1);
    ::_exit(0);
  }
  ::close(hold[0]);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 1);
  EXPECT_THAT(error_of([&] {
                GrpcStore({"127.0.0.1", port}, "r", 0, std::chrono::hours(1));
              }),
              HasSubstr(str("another user's program listens at 127.0.0.1:", port, " (user 4321)")));
  ::close(hold[1]);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Trust, another_machine_needs_a_token_or_an_explicit_wish) {
  // An address of nobody (RFC 5737).
  const Endpoint far{"192.0.2.1", 29400};
  EXPECT_THAT(error_of([&] { GrpcStore(far, "r", 0, std::chrono::hours(1)); }),
              AllOf(HasSubstr("192.0.2.1:29400 is on another machine"),
                    HasSubstr("lockstep token FILE"), HasSubstr("LOCKSTEP_PLAINTEXT=1")));
  const auto soon = std::chrono::milliseconds(50);
  EXPECT_THAT(error_of([&] { GrpcStore(far, "r", 0, soon, {.plaintext = true}); }),
              HasSubstr("nobody answers"));
}

TEST(Trust, a_wrong_run_id_is_not_answered_with_the_right_one) {
  const JobToken token = JobToken::random();
  RendezvousServer server({"127.0.0.1", 0}, JobShape{.run_id = "right"}, std::nullopt, with(token));
  const Endpoint at{"127.0.0.1", server.port()};
  GrpcStore store(at, "wrong", 0, kLong, with(token));
  RendezvousClient client(
      at, "wrong", [] {}, {}, with(token));
  for (const std::string& error : {error_of([&] { store.set("k", "v"); }), error_of([&] {
                                     client.join(node(), 1, 0, kLong, [] { return true; });
                                   })})
    EXPECT_THAT(error, AllOf(HasSubstr("no run 'wrong' is served here"), Not(HasSubstr("right"))));
}

}  // namespace
}  // namespace lockstep::launcher
