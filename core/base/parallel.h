// Threads within one rank. The number of threads never changes the bits: callers divide work into
// pieces that depend only on shapes, and threads only decide who computes which piece.
//
// A process has one team of worker threads. They start when a call first needs them and sleep
// between calls. They never delay a call: the calling thread also computes, takes any piece that no
// thread has begun, and waits only for pieces that a worker is computing.
#pragma once

#include <cstdint>
#include <functional>

namespace lockstep {

// The number of threads that this process computes with, including the calling one. Default:
// OMP_NUM_THREADS (the first number, if it is a list), else usable_cores(). Thread-safe; takes
// effect at the next parallel_for of any thread. If the system grants fewer threads, this is
// logged, num_threads() returns their number, and work continues with them. Throws UsageError for
// numbers below 1, or if OMP_NUM_THREADS is needed and is not a positive integer.
void set_num_threads(int threads);
int num_threads();

// Calls body(i) once for every i in [0, pieces), in any order, on several threads if pieces > 1.
// Returns when all calls have returned; their writes are then visible to the caller. After an
// exception in a body no further piece is started, and the exception (or one of several) is
// rethrown here.
//
// Thread-safe. The team works for one call at a time. A thread that calls while it is busy computes
// its pieces itself, and hands over the rest once the team is free. So several callers share the
// cores, without a team each, and none waits for another. A call from within a body runs its pieces
// in the calling thread.
//
// A child of fork() has no workers and starts its own, whatever the parent's threads were doing. A
// child that is forked within a body may only exec or _exit.
void parallel_for(int64_t pieces, const std::function<void(int64_t)>& body);

// While it lives, parallel_for() computes its pieces in the calling thread. Scopes nest.
class OneThreadScope {
 public:
  OneThreadScope();
  ~OneThreadScope();
  OneThreadScope(const OneThreadScope&) = delete;
  OneThreadScope& operator=(const OneThreadScope&) = delete;

 private:
  const bool before_;
};

}  // namespace lockstep
