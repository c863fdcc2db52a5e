// Collectives over a Group's shared memory. docs/comm.md describes the protocol.
#pragma once

#include <memory>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/reduce/reduce_kernels.h"
#include "comm/shm/arena.h"
#include "comm/shm/group.h"
#include "comm/shm/slot_writer.h"

namespace lockstep::comm::shm {

// Runs the calls of the collectives' lane, one at a time. A call processes its data in steps. In
// step s every rank
//   stages:   copies what others need of it to its slot s % slots, and publishes `staged`;
//   consumes: waits until all have staged, takes (or sums) its part from their slots, and
//             publishes `read`;
//   collects: waits until all have read, and copies their sums (only if the call returns sums).
// A rank whose tensor is in shared memory neither stages nor collects, because the others read and
// write its tensor directly. Slot s is filled again in step s + slots, when all have read s. All
// ranks take the same number of steps in every call, in every role, so steps are counted over the
// life of the group. Words hold the lower 32 bits of the count. Slots are computed from the whole
// count, so their number need not divide 2^32.
class Collectives {
 public:
  Collectives(Group& group, std::shared_ptr<Arena> arena);
  void execute(const Call& call);

 private:
  class Run;
  Group& group_;
  const std::shared_ptr<Arena> arena_;
  PeerMaps peer_maps_;
  SlotWriter writer_;
  uint64_t step_ = kFirstStep;  // the next step
};

// Sends and receives. Thread-safe between different pairs of peer and direction.
class Messages {
 public:
  explicit Messages(Group& group);
  void execute(const Call& call);

 private:
  struct Progress {
    uint32_t messages = 0, pieces = 0;
    SlotWriter writer;
  };
  void send(const Call& call);
  void recv(const Call& call);
  Group& group_;
  std::vector<Progress> sent_, received_;  // by peer
};

}  // namespace lockstep::comm::shm
