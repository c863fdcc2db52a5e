#include "launcher/rendezvous/admission.h"

#include <cerrno>
#include <memory>

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "launcher/trust/job_identity.h"
#include "launcher/trust/socket_owner.h"

namespace lockstep::launcher {
namespace {

constexpr int kRefusals = 3;
constexpr auto kPatience = std::chrono::seconds(1);
// For the connection alone. It waits at most so long for a host that does not answer.
constexpr auto kReach = std::chrono::milliseconds(300);
// A listener that has no room, or wants no stranger, breaks off before a word is said.
constexpr auto kSilence = std::chrono::milliseconds(50);

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* it) const {
    Free(it);
  }
};
using Context = std::unique_ptr<SSL_CTX, Freer<&::SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Freer<&::SSL_free>>;
using Memory = std::unique_ptr<BIO, Freer<&::BIO_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<&::EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<&::X509_free>>;

struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

bool wait_for(int fd, short events, const Deadline& deadline) {
  pollfd look{fd, events, 0};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining());
  return ::poll(&look, 1, static_cast<int>(std::max<int64_t>(0, left.count()))) > 0;
}

// A connection that does not block, or -1.
int connect_to(const Endpoint& server, const Deadline& deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(server.host.c_str(), std::to_string(server.port).c_str(), &hints, &found) != 0)
    return -1;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  for (const addrinfo* each = found; each; each = each->ai_next) {
    const int fd = ::socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    int error = 0;
    socklen_t size = sizeof error;
    const bool begun = ::connect(fd, each->ai_addr, each->ai_addrlen) == 0 || errno == EINPROGRESS;
    if (begun && wait_for(fd, POLLOUT, deadline) &&
        ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0)
      return fd;
    ::close(fd);
  }
  return -1;
}

// A TLS client with the job's certificate, which trusts no other.
Context client_context(const JobToken& token) {
  const JobIdentity identity = identity_of(token);
  const Memory key_text(::BIO_new_mem_buf(identity.key.data(), -1));
  const Memory text(::BIO_new_mem_buf(identity.certificate.data(), -1));
  const Key key(::PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr));
  const Certificate own(::PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr));
  Context context(::SSL_CTX_new(::TLS_client_method()));
  if (!context || !key || !own || ::SSL_CTX_use_certificate(context.get(), own.get()) != 1 ||
      ::SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 ||
      ::X509_STORE_add_cert(::SSL_CTX_get_cert_store(context.get()), own.get()) != 1)
    throw EnvironmentError("[rendezvous] OpenSSL cannot prepare a connection");
  ::SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  return context;
}

std::string shake_hands(int fd, const Endpoint& server, const JobToken& token,
                        const Deadline& deadline) {
  const Context context = client_context(token);
  const Session session(::SSL_new(context.get()));
  if (!session || ::SSL_set_fd(session.get(), fd) != 1) return "";
  static constexpr unsigned char kHttp2[] = "\x02h2";
  ::SSL_set_alpn_protos(session.get(), kHttp2, 3);
  while (true) {
    ::ERR_clear_error();
    const int done = ::SSL_connect(session.get());
    if (done == 1) return "";
    const int why = ::SSL_get_error(session.get(), done);
    if (why == SSL_ERROR_WANT_READ && wait_for(fd, POLLIN, deadline)) continue;
    if (why == SSL_ERROR_WANT_WRITE && wait_for(fd, POLLOUT, deadline)) continue;
    if (why != SSL_ERROR_SSL) return "";  // it was not answered in time, or broke off
    if (::SSL_get_verify_result(session.get()) != X509_V_OK)
      return str("[rendezvous] whoever answers at ", server.text(),
                 " has another token than this process: LOCKSTEP_JOB_TOKEN_FILE must name a copy "
                 "of the same file on all hosts");
    return str("[rendezvous] whoever answers at ", server.text(),
               " has no token, but this process has one: set LOCKSTEP_JOB_TOKEN_FILE on all hosts, "
               "or on none");
  }
}

// How a connection of HTTP/2 begins: the preface and an empty frame of settings.
constexpr std::string_view kPreface{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33};

std::string greet(int fd, const Endpoint& server, const Deadline& deadline) {
  if (wait_for(fd, POLLIN, Deadline::after(kSilence))) return "";
  if (::send(fd, kPreface.data(), kPreface.size(), MSG_NOSIGNAL) < 0) return "";
  char answer = 0;
  if (!wait_for(fd, POLLIN, deadline) || ::recv(fd, &answer, 1, 0) > 0) return "";
  return str("[rendezvous] whoever answers at ", server.text(),
             " breaks off connections without a token: set LOCKSTEP_JOB_TOKEN_FILE to a copy of "
             "the file that the agent of node 0 uses");
}

}  // namespace

void check_may_trust(const Endpoint& server, const Trust& trust) {
  if (trust.token || trust.plaintext || server.is_unix()) return;
  bool here = true;
  try {
    here = is_local(server.host);
  } catch (const EnvironmentError&) {  // the name may come to exist
    return;
  }
  check(here, "[rendezvous] ", server.text(),
        " is on another machine, and this job has no token: ", how_to_trust());
  const auto other = foreign_listener(server.host, server.port);
  check(!other, "[rendezvous] another user's program listens at ", server.text(), " (user ",
        other.value_or(0), "), and this job has no token: choose another port");
}

std::string why_not_let_in(const Endpoint& server, const Trust& trust) {
  if (server.is_unix()) return "";
  const Deadline deadline = Deadline::after(kPatience);
  const Socket socket{connect_to(server, Deadline::after(kReach))};
  if (socket.fd < 0) return "";
  return trust.token ? shake_hands(socket.fd, server, *trust.token, deadline)
                     : greet(socket.fd, server, deadline);
}

void Knocking::failed() {
  const std::string why = why_not_let_in(server_, trust_);
  refusals_ = why.empty() ? 0 : refusals_ + 1;
  check(refusals_ < kRefusals, why);
}

}  // namespace lockstep::launcher
