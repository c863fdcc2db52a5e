// Replicas in memory: every rank keeps its own part of the state and, if asked, its buddy's, so
// that what was lost comes back without the disk: the processes, where somebody keeps their memory
// (ReplicaOptions::file); that memory, where the buddies' is kept.
//
//   ReplicaStore replicas({.file = kept});
//   replicas.prepare(entries, group);
//   // What this process, or the one before it, put there.
//   if (replicas.find().step >= 0) replicas.restore(entries);
//   replicas.start(step, entries);  // returns once the copy is made; a thread does the rest
//
// A rank's part is what it would write to a checkpoint (checkpoint/save/plan.h): with shards its
// own, with data parallelism one W-th.
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
  // Rank r's copy is also with rank (r + distance) mod W, its buddy. With as much as there are
  // ranks on a host, a lost host can be restored too. 0: no buddies, and half the memory. The same
  // on all ranks.
  int distance = 1;
  // Of what the state belongs to. Copies of another are not used. The same on all ranks.
  std::string identity = {};
  // Where the copies are (checkpoint/replica/replica_memory.h): memory that somebody keeps for the
  // process that comes after this one; empty: memory that goes with the store.
  std::string file = {};
};

// Which ranks hold each other's copies, where `node_of[r]` is the node of rank r whose memory goes
// all at once: the smallest distance at which each rank's buddy is on another node. Where there is
// none, the largest number of ranks of a node, and `covers_nodes` is false; with one node 0, since
// its memory stays or goes as a whole.
struct BuddyDistance {
  int distance = 0;
  bool covers_nodes = false;
};
BuddyDistance buddy_distance(const std::vector<int>& node_of);

// How an exchange went.
struct ReplicaOutcome {
  int64_t step = 0;
  std::string error;    // empty: every rank's copies are in place
  Duration stall{};     // how long start() held its caller up
  Duration duration{};  // from start() to the agreement of all ranks
};

struct ReplicasFound {
  int64_t step = -1;          // the newest of which every part is there; -1: there is none
  std::string why_none = {};  // one line; names what is missing, and on which ranks
  // Copies that were there but cannot be used: rank and reason.
  std::vector<std::string> notes = {};
};

struct ReplicaRestored {
  int64_t step = 0;
  std::vector<int> from_others = {};  // the ranks whose part came from another rank
  int64_t received_bytes = 0;         // by this rank
};

// Used by one thread on each rank. Takes twice its rank's part, with buddies four times the larger
// one of its own and its guest's: the copies of the last complete step stay untouched while those
// of the next one are made. Counted as MemoryCategory::buffers.
class ReplicaStore {
 public:
  // Throws EnvironmentError where `file` cannot be used.
  explicit ReplicaStore(const ReplicaOptions& options = {});
  ~ReplicaStore();  // waits

  // Collective, and needed before all others, for each new group. Splits a group of its own off, so
  // that what the background exchanges cannot mix with the caller's collectives, plans, and takes
  // the memory; what still went on in an old group is ended. UsageError where the distance leads
  // back to the rank itself, or ranks differ in distance or identity.
  void prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group);

  // Collective, with the names and shards of prepare(); where they or the steps differ on any rank,
  // the exchange fails on all. Waits for the exchange before, if it still goes on; its outcome
  // stays for poll(). Then copies this rank's part and returns; the entries may change at once.
  // After a failure the copies of the step before are still whole. A thread sends the copy to the
  // buddy; without buddies there is nothing to send, and the ranks agree that all have their copies
  // in the next start() or wait().
  void start(int64_t step, const std::vector<Entry>& entries);
  // The same, and waits; throws what went wrong.
  void store(int64_t step, const std::vector<Entry>& entries);

  // The outcome of an exchange that has ended and was not told yet. Does not wait.
  std::optional<ReplicaOutcome> poll();
  // Collective. Waits for the one that goes on, if any. Then as poll().
  std::optional<ReplicaOutcome> wait();

  // Collective. The ranks tell each other which copies they hold whole, their own or any other's,
  // whatever ranks they had when they got them, and agree on the newest step of which every part is
  // somewhere. Copies whose sums are wrong do not count.
  ReplicasFound find();
  // Collective, after a find() that found a step. Fills `entries` with it: a value reaches a tensor
  // only after its checksum was found right. Then store()s that step again, so that the next loss
  // finds all copies in place. Copies of other steps are forgotten. Throws EnvironmentError on all
  // ranks where the group fails on the way; tensors may then hold parts of the step, and what is
  // kept is good for another find() and restore().
  ReplicaRestored restore(const std::vector<Entry>& entries);
  // Forgets all copies of this rank: a run begins anew, or elsewhere.
  void forget();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::checkpoint
