// Threads inside one rank. The number of threads never changes the bits: callers cut work into
// pieces that depend on shapes alone, and the threads only decide who computes which piece.
//
// A process has one team: worker threads that are started when a call first needs them and sleep
// between calls. They never hold a call up: the calling thread works, too, takes whatever piece
// nobody has begun, and waits only for pieces that a worker is in the middle of.
#pragma once

#include <cstdint>
#include <functional>

namespace lockstep {

// Threads that this process uses for compute, the calling one included. Default: OMP_NUM_THREADS
// (of a list, the first number), else usable_cores(). Thread-safe; holds from the next parallel_for
// on, for all threads that call it. Where the system grants fewer threads, a warning is logged,
// num_threads() says how many there are, and work goes on with those. Throws UsageError for fewer
// than one thread, and where OMP_NUM_THREADS is needed and is no such number.
void set_num_threads(int threads);
int num_threads();

// Calls body(i) once for every i in [0, pieces), in any order, on several threads at once when
// pieces > 1. Returns when all have returned; what they wrote is visible to the caller. After an
// exception in a body no further piece is begun, and the exception (of several, one) is rethrown
// here.
//
// Thread-safe. The team works for one call at a time. A thread that calls while it is busy computes
// its pieces itself, and hands over what is left once the team is free: several callers share the
// cores instead of each bringing a team of its own, and none waits for another. A call from within
// a body runs its pieces in the calling thread.
//
// A child of fork() has no workers and starts its own, whatever the parent's threads were doing. A
// child that is made within a body may only exec or _exit.
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
