// A gRPC channel for agents and ranks. Internal to the launcher: it exposes gRPC.
#pragma once

#include <memory>

#include <grpcpp/channel.h>
#include <grpcpp/security/server_credentials.h>

#include "core/base/clock.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {

// Call before any other use of gRPC. Throws EnvironmentError if gRPC would lack files or threads.
// gRPC stays initialized until the process ends: grpc_shutdown() waits without a limit for its
// threads, even for one that the system refused.
void prepare_grpc();

// Does not wait for the connection. With a token, it is one of TLS, unless `server` is a Unix
// socket.
std::shared_ptr<grpc::Channel> open_channel(const Endpoint& server, const Trust& trust);
// The same for a server: what it demands of each connection.
std::shared_ptr<grpc::ServerCredentials> server_credentials(const Endpoint& at, const Trust& trust);
// A deadline for gRPC. gRPC takes wall-clock time and converts it to monotonic time at once.
std::chrono::system_clock::time_point grpc_deadline(Duration from_now);

}  // namespace lockstep::launcher
