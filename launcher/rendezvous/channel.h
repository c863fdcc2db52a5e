// A gRPC channel as agents and ranks use it. Inside the launcher only: it shows gRPC.
#pragma once

#include <memory>

#include <grpcpp/channel.h>

#include "core/base/clock.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Does not wait for the connection.
std::shared_ptr<grpc::Channel> open_channel(const Endpoint& server);
// A deadline as gRPC wants it: it counts wall-clock time and turns it into monotonic time at once.
std::chrono::system_clock::time_point grpc_deadline(Duration from_now);

}  // namespace lockstep::launcher
