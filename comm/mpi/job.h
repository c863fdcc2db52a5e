// What mpirun tells a process through its environment. Needs no MPI library, and does not
// initialise MPI.
#pragma once

#include <optional>

namespace lockstep::comm {

struct MpiJob {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks on this host
  int local_size = 1;
};

// Nothing when mpirun did not start this process. Throws UsageError when the variables
// (OMPI_COMM_WORLD_*) make no sense.
std::optional<MpiJob> mpi_job();

inline bool is_mpi_job() { return mpi_job().has_value(); }

}  // namespace lockstep::comm
