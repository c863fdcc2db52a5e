// What mpirun tells a process through its environment. This needs no MPI library and does not
// initialise MPI.
#pragma once

#include <optional>

namespace lockstep::comm {

struct MpiJob {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // rank among those on this host
  int local_size = 1;
};

// Nothing if mpirun did not start this process. Throws UsageError if the variables
// OMPI_COMM_WORLD_* make no sense.
std::optional<MpiJob> mpi_job();

inline bool is_mpi_job() { return mpi_job().has_value(); }

}  // namespace lockstep::comm
