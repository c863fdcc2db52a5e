// Converts between the types of the state machine and their messages. Internal to the launcher: it
// exposes protobuf.
#pragma once

#include <cstdint>

#include "launcher/proto/rendezvous.pb.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// Version of rendezvous.proto; agents of different versions do not work together.
constexpr uint32_t kProtocol = 2;
// Bound of every message, and so of what a peer can make us hold.
constexpr int kMaxMessageBytes = 4 << 20;

proto::Node to_proto(const Node& node);
Node from_proto(const proto::Node& node);
proto::Failure to_proto(const Failure& failure);
Failure from_proto(const proto::Failure& failure);
proto::JobState to_proto(const JobState& state);
JobState from_proto(const proto::JobState& state);

}  // namespace lockstep::launcher
