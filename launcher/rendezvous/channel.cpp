#include "launcher/rendezvous/channel.h"

#include <cstdlib>

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "core/base/log.h"
#include "launcher/base/needs.h"
#include "launcher/rendezvous/wire.h"
#include "launcher/trust/job_identity.h"

namespace lockstep::launcher {

namespace {

// gRPC complains about each connection of a stranger. Such lines must not fill the screen.
void take_line(gpr_log_func_args* line) { log::debug("[grpc] ", line->message); }

}  // namespace

void prepare_grpc() {
  static const bool once = [] {
    // In a rank, gRPC was seen to use 10 files and 8 threads.
    require_files(10, "a connection to the rendezvous");
    require_threads(12, "a connection to the rendezvous");
    // Ranks start by fork and exec. gRPC must not stop its threads for that.
    ::setenv("GRPC_ENABLE_FORK_SUPPORT", "0", 1);
    ::gpr_set_log_function(&take_line);
    ::grpc_init();
    return true;
  }();
  static_cast<void>(once);
}

std::shared_ptr<grpc::ServerCredentials> server_credentials(const Endpoint& at,
                                                            const Trust& trust) {
  if (!trust.token || at.is_unix()) return grpc::InsecureServerCredentials();
  const JobIdentity identity = identity_of(*trust.token);
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = identity.certificate;
  options.pem_key_cert_pairs.push_back({identity.key, identity.certificate});
  return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::Channel> open_channel(const Endpoint& server, const Trust& trust) {
  prepare_grpc();
  grpc::ChannelArguments arguments;
  // Nodes of a job are not reached through the environment's http_proxy.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  if (!trust.token || server.is_unix())
    return grpc::CreateCustomChannel(server.text(), grpc::InsecureChannelCredentials(), arguments);
  const JobIdentity identity = identity_of(*trust.token);
  arguments.SetSslTargetNameOverride(kJobName);
  return grpc::CreateCustomChannel(
      server.text(),
      grpc::SslCredentials({identity.certificate, identity.key, identity.certificate}), arguments);
}

std::chrono::system_clock::time_point grpc_deadline(Duration from_now) {
  // A sum beyond the clock's range would wrap around.
  const Duration limit = std::min<Duration>(from_now, std::chrono::hours(24 * 365));
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(limit);
}

}  // namespace lockstep::launcher
