// What a call is made of on a communicator: NCCL's operations and, for sums in tree order, a
// kernel.
#pragma once

#include "comm/engine/backend.h"
#include "comm/nccl/communicator.h"

namespace lockstep::comm::nccl {

// Queues a call of a device's tensors on the communicator's queue, whose ranks all make it. The
// queue has come to the call's `ready`. Rank `rank` of `size`; a message is between rank 0, which
// sends, and rank 1. Throws as Communicator::run() does, and EnvironmentError if there is no memory
// left.
void run_call(Communicator& communicator, const Call& call, int rank, int size, const Check& check);

}  // namespace lockstep::comm::nccl
