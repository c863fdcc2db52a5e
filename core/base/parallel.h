// Threads inside one rank. The number of threads never changes the bits: callers cut work into pieces that depend on
// shapes alone, and the threads only decide who computes which piece.
#pragma once

#include <cstdint>
#include <functional>

namespace lockstep {

// Threads that this process uses for compute. Default: OMP_NUM_THREADS, else the cores this process may run on.
void set_num_threads(int threads);
int num_threads();

// Calls body(i) for every i in [0, pieces), on several threads at once when pieces > 1. Not nested: a call from within
// a body runs its pieces in the calling thread. An exception in a body is rethrown here.
void parallel_for(int64_t pieces, const std::function<void(int64_t)>& body);

}  // namespace lockstep
