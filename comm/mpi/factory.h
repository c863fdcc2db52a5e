// The mpi backend: collectives over Open MPI, for programs that mpirun started. A build without MPI
// has the same functions (no_mpi.cpp), which say what to install.
//
// With reduction tree, MPI sends and receives, and we sum in the tree's order: the same bits as on
// any other backend. With reduction fast, MPI's non-blocking collectives sum in MPI's order.
//
// The first use initialises MPI; the exit of the process finalises it. Only one call of MPI runs at
// a time, and none of them blocks. So every wait has a limit, and a stopped peer ends in a
// TimeoutError that names it.
#pragma once

#include <memory>

#include "comm/process_group.h"
#include "core/base/clock.h"

namespace lockstep::comm {

class Store;

// Whether this build has the backend.
bool has_mpi();

// All ranks of the MPI job call this, in the same order if there are several groups. `rank` and
// `size` must be the job's (mpi_job() in comm/mpi/job.h). The store is not used, because mpirun has
// connected the ranks already. With size 1 it needs no MPI job and initialises nothing. Throws
// UsageError if mpirun did not start the process, if rank, size or name do not agree, or if this
// build has no MPI; TimeoutError if some rank did not come within options.timeout.
std::unique_ptr<Backend> make_mpi(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options);

// A Store for the ranks of an MPI job, for users that need one without a launcher (the shm backend
// under mpirun). A thread of rank 0 serves it until the process exits. Every rank of the job calls
// this; later calls return the same store. Without an MPI job, the store is for this process only.
// Errors as above.
std::shared_ptr<Store> mpi_store(Duration timeout = std::chrono::seconds(30));

}  // namespace lockstep::comm
