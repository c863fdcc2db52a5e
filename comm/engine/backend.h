// Backend: the minimal interface that a backend (local, shm, mpi) implements. ProcessGroup does
// what all backends share: validation, the identity at world size 1, sequence numbers,
// fingerprints, the flight recorder, Work, abort, threads.
//
// docs/comm.md says how to add a backend. One that can only send and receive bytes implements
// Transport (comm/engine/transport.h) and gets all collectives from there.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/engine/fingerprint.h"
#include "comm/engine/limit.h"
#include "comm/process_group.h"
#include "core/device/device.h"

namespace lockstep::comm {

// One call, checked already: pointers and counts are right on this rank, and size() is at least 2.
// Plain data; what it points to outlives execute().
struct Call {
  Fingerprint fingerprint;  // equal on all ranks where the program is right; the backend compares
                            // it before it moves data

  // W = size(), n = count.          in              out
  //   all_reduce                    [n]             [n]        in == out
  //   reduce_scatter                [W·n]           [n]        out may be rank r's slice of in
  //   all_gather                    [n]             [W·n]      in may be rank r's slice of out
  //   broadcast                     [n] at root     [n]        in == out
  //   reduce                        [n]             [n]        in == out; written at root only
  //   gather                        [n]             [W·n]      out null but at root; in may be
  //                                                            root's slice of it
  //   scatter                       [W·n]           [n]        in null but at root; out may be
  //                                                            root's slice of it
  //   all_to_all                    [W·n]           [W·n]      no overlap
  //   send / recv                   [n] / null      null / [n]
  //   barrier                       null            null
  const void* in = nullptr;
  void* out = nullptr;

  Op op = Op::barrier;
  DType dtype = DType::u8;
  ReduceOp reduce_op = ReduceOp::sum;
  Reduction reduction = Reduction::tree;
  int64_t count = 0;                 // n, in elements; may be 0
  int root = -1;                     // the other rank for send and recv; -1 where there is none
  const ReduceTree* tree = nullptr;  // never null for all_reduce, reduce_scatter and reduce
  Limit limit = Deadline(Clock::time_point::max());

  // The tensors' contents are there after this point of the queue on which the call was submitted.
  // Done from the start on a CPU.
  Event ready = {};
  // What `in` and `out` lie in; null where they are. A backend that leaves work on a queue of its
  // own behind tells them so (Storage::used_on).
  const Storage* in_memory = nullptr;
  const Storage* out_memory = nullptr;
  // True while a thread is blocked on the result, which then may as well spin; otherwise the core
  // has better to do.
  const std::atomic<int>* waiters = nullptr;

  std::string_view what() const { return limit.what(); }
  int64_t bytes() const { return count * size_of(dtype); }  // of one slice of n elements
  bool awaited() const { return waiters && waiters->load(std::memory_order_relaxed) > 0; }
};

// How a group splits, the same on all its ranks but for `rank`.
struct SplitPlan {
  std::string name;        // of the new group; unique among the groups that came from one create()
  int color = -1;          // negative: this rank joins none
  int key = 0;             // ordering asked for; `ranks` follows it already
  std::vector<int> ranks;  // this group's ranks that form the new one, in its order; empty where
                           // color is negative
  int rank = -1;           // this rank's place in `ranks`
  std::optional<Duration> timeout = std::nullopt;    // of the new group's calls, as in GroupOptions
  Limit limit = Deadline(Clock::time_point::max());  // of forming it
};

// The options' limits, with the defaults.
inline Patience patience_of(const std::optional<Duration>& timeout) {
  return {timeout.value_or(kDefaultTimeout), timeout.value_or(kDefaultStoppedTimeout)};
}

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "shm"
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Where the tensors must be.
  virtual Device device() const = 0;

  // Runs one call. On return all ranks have come to it with equal fingerprints, and the output is
  // there once the event is done that this returns: a default event where it is there already. A
  // device's backend waits for call.ready, on the host or on its own queue, before it touches the
  // tensors. One that leaves work behind on a queue tells the tensors' memory (Storage::used_on).
  //
  // Threads: calls of one lane come one at a time, in order, from any thread. Lanes run at the same
  // time and independently of each other: all collectives are one lane, the sends to each rank are
  // one, the receives from each rank are one. So a send may take until the receiver is there.
  //
  // Throws, always in time (call.limit; a peer's death or abort within a second):
  //   UsageError        fingerprints differ (mismatch_error); on all ranks of the call
  //   TimeoutError      the limit has passed; says so (call.limit.reached()), who has not arrived
  //                     and, where known, at which call they are
  //   EnvironmentError  a peer died, left or aborted; names rank, pid and host where known
  // The message is the cause alone, without the call: ProcessGroup adds group, rank and call. After
  // a failure it calls abort() and executes nothing more.
  virtual Event execute(const Call& call) = 0;

  // Throws EnvironmentError if the calls whose events are not done yet may never end: a peer died
  // or aborted, or the device's communication has failed. Comes every few milliseconds while
  // there are such calls, from any thread.
  virtual void check_running() {}

  // Whether a call's output is there only once the event is done that execute() returns, so that
  // the host need not wait for the device between two calls.
  virtual bool queues() const { return false; }

  // Forms the new group's backend; null where plan.color is negative. Comes on every rank, in the
  // lane of collectives. Throws as execute() does, in time too: a rank that dies, leaves or aborts
  // this group meanwhile is not waited for.
  virtual std::unique_ptr<Backend> split(const SplitPlan& plan) = 0;

  // Memory in which this backend's collectives cost least (shared memory, pinned or registered
  // pages); may outlive the backend. Contents are zero. Ordinary memory where there is nothing
  // better.
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;

  // From any thread, at any time, any number of times: running execute() calls throw
  // EnvironmentError with `reason` at once, here and, as far as they can be reached, on the other
  // ranks. What they have left on queues comes to an end, with any contents of the outputs.
  virtual void abort(const std::string& reason) noexcept = 0;
};

}  // namespace lockstep::comm
