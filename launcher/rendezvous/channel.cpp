#include "launcher/rendezvous/channel.h"

#include <cstdlib>

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "launcher/base/needs.h"
#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {

void prepare_grpc() {
  static const bool once = [] {
    // In a rank, gRPC was seen to use 10 files and 8 threads.
    require_files(10, "a connection to the rendezvous");
    require_threads(12, "a connection to the rendezvous");
    // Ranks start by fork and exec. gRPC must not stop its threads for that.
    ::setenv("GRPC_ENABLE_FORK_SUPPORT", "0", 1);
    ::grpc_init();
    return true;
  }();
  static_cast<void>(once);
}

std::shared_ptr<grpc::Channel> open_channel(const Endpoint& server) {
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
  return grpc::CreateCustomChannel(server.text(), grpc::InsecureChannelCredentials(), arguments);
}

std::chrono::system_clock::time_point grpc_deadline(Duration from_now) {
  // A sum beyond the clock's range would wrap around.
  const Duration limit = std::min<Duration>(from_now, std::chrono::hours(24 * 365));
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(limit);
}

}  // namespace lockstep::launcher
