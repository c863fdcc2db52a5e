// MPI's own collectives, for reduction fast.
#pragma once

#include "comm/engine/backend.h"
#include "comm/mpi/runtime.h"

namespace lockstep::comm::mpi {

// Whether MPI has this call for this dtype, operation and count. It has no 16-bit floats, and its
// counts are of type int.
bool is_native(const Call& call);

// Runs the whole call over `communicator`, which has exactly the group's ranks. All ranks have
// arrived with the same fingerprint. `complete` waits for a request, with time limits.
void execute_native(Runtime& runtime, MPI_Comm communicator, int rank, const Call& call,
                    const std::function<void(MPI_Request)>& complete);

}  // namespace lockstep::comm::mpi
