// Collectives over a Group's shared memory. Docs of the protocol: docs/comm.md.
#pragma once

#include <memory>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/reduce/reduce_kernels.h"
#include "comm/shm/arena.h"
#include "comm/shm/group.h"
#include "comm/shm/slot_writer.h"

namespace lockstep::comm::shm {

// Runs the calls of the collectives' lane, one at a time. A call goes through its data in steps; in
// step s every rank
//   stages   copies what others need of it into its slot s % slots, and publishes `staged`;
//   consumes waits until all have staged, takes (or sums) its part from their slots, and publishes
//            `read`;
//   collects waits until all have read, and copies their sums (only where a sum goes to others).
// A rank whose tensor lies in shared memory stages nothing and collects nothing: the others read
// and write the tensor itself. Slot s is filled again in step s + slots, when all have read s. All
// ranks go through the same number of steps in every call, whatever their role, so the steps can be
// counted over the whole life of the group. Words hold the count's lower 32 bits, slots follow from
// all of it: their number need not divide 2^32.
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
  uint64_t step_ = kFirstStep;  // the next one
};

// Sends and receives; thread-safe between different (peer, direction) pairs.
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
