// Converts between the types of the state machine and their messages. Internal to the launcher: it
// exposes protobuf.
#pragma once

#include <cstdint>

#include "launcher/proto/rendezvous.pb.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// Version of rendezvous.proto; agents of different versions do not work together.
constexpr uint32_t kProtocol = 3;
// Bound of every message, and so of what a peer can make us hold.
constexpr int kMaxMessageBytes = 4 << 20;

// The texts and numbers that a peer chooses have limits, and names have no control characters.
// These throw UsageError that names the field. Of a failure, from_proto() cuts longer texts and
// replaces control characters.
void check_texts(const proto::EnterRequest& request);
void check_texts(const proto::Node& node);

proto::Node to_proto(const Node& node);
Node from_proto(const proto::Node& node);
proto::Failure to_proto(const Failure& failure);
Failure from_proto(const proto::Failure& failure);
proto::JobState to_proto(const JobState& state);
JobState from_proto(const proto::JobState& state);

}  // namespace lockstep::launcher
