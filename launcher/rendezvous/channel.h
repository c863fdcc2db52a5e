// A gRPC channel as agents and ranks use it. Inside the launcher only: it shows gRPC.
#pragma once

#include <memory>

#include <grpcpp/channel.h>

#include "core/base/clock.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Before anything else of gRPC; throws EnvironmentError where it would lack files or threads. It
// stays initialized until the process ends: grpc_shutdown() waits without a limit for threads of
// its own, also for one that the system had refused.
void prepare_grpc();

// Does not wait for the connection.
std::shared_ptr<grpc::Channel> open_channel(const Endpoint& server);
// A deadline as gRPC wants it: it counts wall-clock time and turns it into monotonic time at once.
std::chrono::system_clock::time_point grpc_deadline(Duration from_now);

}  // namespace lockstep::launcher
