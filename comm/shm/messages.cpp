#include <algorithm>
#include <cstring>

#include "comm/shm/collectives.h"

namespace lockstep::comm::shm {

Messages::Messages(Group& group)
    : group_(group),
      sent_(static_cast<size_t>(group.size())),
      received_(static_cast<size_t>(group.size())) {}

void Messages::execute(const Call& call) { call.op == Op::send ? send(call) : recv(call); }

void Messages::send(const Call& call) {
  const int peer = call.root;
  Channel& channel = group_.channel(group_.rank(), peer);
  Progress& progress = sent_[static_cast<size_t>(peer)];
  const uint32_t message = ++progress.messages;
  channel.sends[message % 2] = call.fingerprint;
  channel.posted.publish(message);
  group_.await(channel.ready, message, peer, call);
  const Fingerprint& theirs = channel.recvs[message % 2];
  if (theirs != call.fingerprint)
    throw mismatch_error(group_.rank(), call.fingerprint, peer, theirs);

  const auto* data = static_cast<const std::byte*>(call.in);
  const auto bytes = static_cast<size_t>(call.bytes());
  for (size_t at = 0; at < bytes; at += kMessageBytes) {
    group_.await(channel.drained, progress.pieces + 1 - kMessageSlots, peer, call);
    progress.writer.copy(group_.message(group_.rank(), peer, progress.pieces), data + at,
                         std::min(kMessageBytes, bytes - at));
    channel.filled.publish(++progress.pieces);
  }
}

void Messages::recv(const Call& call) {
  const int peer = call.root;
  Channel& channel = group_.channel(peer, group_.rank());
  Progress& progress = received_[static_cast<size_t>(peer)];
  const uint32_t message = ++progress.messages;
  channel.recvs[message % 2] = call.fingerprint;
  channel.ready.publish(message);
  try {
    group_.await(channel.posted, message, peer, call);
  } catch (...) {
    // The sender may still come. It must see that this rank has withdrawn its receive.
    if (call.limit.withdrawn()) channel.ready.publish(--progress.messages);
    throw;
  }
  const Fingerprint& theirs = channel.sends[message % 2];
  if (theirs != call.fingerprint)
    throw mismatch_error(peer, theirs, group_.rank(), call.fingerprint);

  auto* data = static_cast<std::byte*>(call.out);
  const auto bytes = static_cast<size_t>(call.bytes());
  for (size_t at = 0; at < bytes; at += kMessageBytes) {
    group_.await(channel.filled, progress.pieces + 1, peer, call);
    std::memcpy(data + at, group_.message(peer, group_.rank(), progress.pieces),
                std::min(kMessageBytes, bytes - at));
    channel.drained.publish(++progress.pieces);
  }
}

}  // namespace lockstep::comm::shm
