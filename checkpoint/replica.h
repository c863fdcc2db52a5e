// Replicas in memory: every rank keeps a copy of its own part of the state and one of its neighbour's, so that a rank that was lost
// gets its state back without the disk.
//
//   ReplicaStore replicas;                          // lives as long as the process, longer than any group
//   replicas.prepare(entries, group);
//   replicas.start(step, entries);                  // returns once the copy is made; a thread in the background sends it
//   … a rank is lost: its successor starts with an empty store, the others keep theirs, and all form a new group …
//   ReplicaRestored restored = replicas.restore(entries, new_group);
//
// A rank's part is what it would write to a checkpoint (checkpoint/plan.h): with shards its own, with data parallelism one W-th.
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
  // Rank r's copy is with rank (r + distance) mod W, its buddy. The same on all ranks. With as much as there are ranks on a
  // host, a lost host can be restored too.
  int distance = 1;
};

// How an exchange went.
struct ReplicaOutcome {
  int64_t step = 0;
  std::string error;    // empty: every rank's copy is with its buddy
  Duration stall{};     // how long start() held its caller up
  Duration duration{};  // from start() to the agreement of all ranks
};

struct ReplicaRestored {
  int64_t step = 0;
  std::vector<int> from_buddies;   // the ranks whose part came from their buddy
  std::vector<std::string> notes;  // copies that were there but could not be used: rank and reason
  int64_t received_bytes = 0;      // by this rank
};

// Used by one thread on each rank. Takes four times its rank's part: the copies of the last complete step stay untouched while those of
// the next one are made. Counted as MemoryCategory::buffers.
class ReplicaStore {
 public:
  explicit ReplicaStore(const ReplicaOptions& options = {});
  ~ReplicaStore();  // waits

  // Collective, and needed once before start(); restore() does it too. Splits a group of its own off, so that what the background
  // exchanges cannot mix with the caller's collectives, plans, and takes the memory. UsageError at world size 1, or where the distance
  // leads back to the rank itself.
  void prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group);

  // Collective, with the names and shards of prepare(); where they or the steps differ on any rank, the exchange fails on all.
  // Waits for the exchange before, if it still goes on; its outcome stays for poll(). Then copies this rank's part and returns;
  // the entries may change at once. After a failure the copies of the step before are still whole.
  void start(int64_t step, const std::vector<Entry>& entries);
  // The same, and waits; throws what went wrong.
  void store(int64_t step, const std::vector<Entry>& entries);

  // The outcome of an exchange that has ended and was not told yet. Does not wait.
  std::optional<ReplicaOutcome> poll();
  // Waits for the one that goes on, if any. Then as poll().
  std::optional<ReplicaOutcome> wait();

  // Collective over a new group of the same size, in which every survivor has the rank that it had. Ends what still went on in the old
  // group. The ranks agree on the newest step of which every rank's part is there, with itself or with its buddy, and fill `entries`
  // with it: a value reaches a tensor only after its checksum was found right. Then store()s that step again, so that the next
  // loss finds all copies in place. Copies of later steps are forgotten.
  // Throws on all ranks: EnvironmentError where a rank's part is nowhere, naming rank and buddy; tensors are as they were. Where the
  // new group fails on the way, tensors may hold parts of the step, and what survivors keep is good for another restore().
  ReplicaRestored restore(const std::vector<Entry>& entries, comm::ProcessGroup& group);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::checkpoint
