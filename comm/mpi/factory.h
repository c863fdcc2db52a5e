// The mpi backend: collectives over Open MPI, for programs started by mpirun. A build without MPI
// has the same functions (no_mpi.cpp), which say what to install.
//
// reduction tree: send and receive over MPI, the sums in the tree's order: the same bits as every
// other backend. reduction fast: MPI's own non-blocking collectives, in MPI's order.
//
// MPI is initialised at the first use and finalised when the process exits. All of its calls are
// made one at a time, and none of them blocks, so every wait has its limit and a stopped peer ends
// in a TimeoutError that names it.
#pragma once

#include <memory>

#include "comm/process_group.h"
#include "core/base/clock.h"

namespace lockstep::comm {

class Store;

// Whether this build has the backend.
bool has_mpi();

// Every rank of the MPI job calls it, in the same order where there are several. `rank` and `size`
// must be the job's (mpi_job() in comm/mpi/job.h). The store is not used: mpirun has brought the
// ranks together already. With size 1 it needs no MPI job and initialises nothing. Throws
// UsageError when the process was not started by mpirun, when rank, size or name do not agree, or
// when this build has no MPI; TimeoutError when not all ranks came within options.timeout.
std::unique_ptr<Backend> make_mpi(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options);

// A Store among the ranks of an MPI job, for what needs one where there is no launcher (the shm
// backend under mpirun). It lives on rank 0, in a thread, until the process exits. Every rank of
// the job calls it; later calls return the same store. Without an MPI job: a store of this process
// alone. Errors as above.
std::shared_ptr<Store> mpi_store(Duration timeout = std::chrono::seconds(30));

}  // namespace lockstep::comm
