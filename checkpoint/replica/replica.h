// Replicas in memory: every rank keeps a copy of its own part of the state and, if asked, of its
// buddy's. So state survives without the disk: the loss of a process, if another process keeps the
// memory (ReplicaOptions::file); the loss of that memory, if a buddy holds a copy.
//
//   ReplicaStore replicas({.file = kept});
//   replicas.prepare(entries, group);
//   // What this process, or the one before it, put there.
//   if (replicas.find().step >= 0) replicas.restore(entries);
//   replicas.start(step, entries);  // returns once the copy is made; a thread does the rest
//
// A rank's part is what it would write to a checkpoint (checkpoint/save/plan.h): its own shards, or
// one W-th of the state with data parallelism.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/base/clock.h"

namespace lockstep::checkpoint {

struct ReplicaOptions {
  // Rank (r + distance) mod W, the buddy, also holds rank r's copy. If the distance is the number
  // of ranks on a host, a lost host can be restored, too. 0: no buddies, and half the memory. Equal
  // on all ranks.
  int distance = 1;
  // Identifies the owner of the state. Copies of others are not used. Equal on all ranks.
  std::string identity = {};
  // The memory of the copies (checkpoint/replica/replica_memory.h), which another process keeps for
  // the next process of this rank. Empty: memory that goes with the store.
  std::string file = {};
};

// Chooses which ranks hold each other's copies. `node_of[r]` is the node of rank r, whose memory is
// lost as a whole. Returns the smallest distance at which every buddy is on another node. If there
// is none, returns the largest number of ranks on a node, with `covers_nodes` false. For a single
// node returns 0.
struct BuddyDistance {
  int distance = 0;
  bool covers_nodes = false;
};
BuddyDistance buddy_distance(const std::vector<int>& node_of);

// The outcome of an exchange.
struct ReplicaOutcome {
  int64_t step = 0;
  std::string error;    // empty if every rank's copies are in place
  Duration stall{};     // how long start() blocked its caller
  Duration duration{};  // from start() until all ranks agreed
};

struct ReplicasFound {
  int64_t step = -1;          // the newest step with all parts; -1 if there is none
  std::string why_none = {};  // one line that names what is missing, and on which ranks
  // Copies that were found but cannot be used: rank and reason.
  std::vector<std::string> notes = {};
};

struct ReplicaRestored {
  int64_t step = 0;
  std::vector<int> from_others = {};  // the ranks whose parts came from other ranks
  int64_t received_bytes = 0;         // bytes that this rank received
};

// One thread on each rank uses it. Takes twice the memory of the rank's part; with buddies, four
// times the larger of its own and its guest's part. The copies of the last complete step stay
// untouched while the next ones are made. Counted as MemoryCategory::buffers.
class ReplicaStore {
 public:
  // Throws EnvironmentError if `file` cannot be used.
  explicit ReplicaStore(const ReplicaOptions& options = {});
  ~ReplicaStore();  // waits for the exchange

  // Collective. Call it first for each new group. It splits off a group of its own, to keep
  // background exchanges apart from the caller's collectives. It plans, takes the memory, and ends
  // exchanges of an old group. Throws UsageError if the distance leads back to the rank itself, or
  // if ranks differ in distance or identity.
  void prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group);

  // Collective, with the names and shards of prepare(). If they or the steps differ on any rank,
  // the exchange fails on all. Waits for the previous exchange, whose outcome stays for poll().
  // Then copies this rank's part and returns; the entries may change at once. After a failure, the
  // copies of the previous step are still whole. A thread sends the copy to the buddy. Without
  // buddies nothing is sent, and the next start() or wait() agrees that all ranks have their
  // copies.
  void start(int64_t step, const std::vector<Entry>& entries);
  // The same, but waits and throws any error.
  void store(int64_t step, const std::vector<Entry>& entries);

  // Returns the outcome of a finished exchange that was not returned yet. Does not wait.
  std::optional<ReplicaOutcome> poll();
  // Collective. Waits for the current exchange, if any. Then like poll().
  std::optional<ReplicaOutcome> wait();

  // Collective. The ranks tell each other which intact copies they hold, of any rank and from any
  // earlier numbering. They agree on the newest step for which every part exists. Copies with wrong
  // sums do not count.
  ReplicasFound find();
  // Collective, after a find() that found a step. Fills `entries` from it; a value reaches a tensor
  // only after its checksum was verified. Then store()s the step again, so that all copies are in
  // place for the next loss. Copies of other steps are forgotten. Throws EnvironmentError on all
  // ranks if the group fails on the way. Tensors may then be partly filled; another find() and
  // restore() is possible.
  ReplicaRestored restore(const std::vector<Entry>& entries);
  // Forgets all copies of this rank: a run starts anew, or from another state.
  void forget();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::checkpoint
