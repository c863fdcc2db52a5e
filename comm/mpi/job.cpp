#include "comm/mpi/job.h"

#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::comm {
namespace {

int number_from(const char* variable) {
  const char* text = std::getenv(variable);
  check(text != nullptr, "[mpi] ", variable,
        " is not set though OMPI_COMM_WORLD_RANK is; start the program with Open MPI's mpirun");
  const int number = parse_number<int>(text).value_or(-1);
  check(number >= 0, "[mpi] ", variable, " must be a number, got '", text, "'");
  return number;
}

}  // namespace

std::optional<MpiJob> mpi_job() {
  if (!std::getenv("OMPI_COMM_WORLD_RANK")) return std::nullopt;
  const MpiJob job{.rank = number_from("OMPI_COMM_WORLD_RANK"),
                   .size = number_from("OMPI_COMM_WORLD_SIZE"),
                   .local_rank = number_from("OMPI_COMM_WORLD_LOCAL_RANK"),
                   .local_size = number_from("OMPI_COMM_WORLD_LOCAL_SIZE")};
  check(job.rank < job.size, "[mpi] OMPI_COMM_WORLD_RANK is ", job.rank,
        ", expected less than OMPI_COMM_WORLD_SIZE, ", job.size);
  check(job.local_rank < job.local_size, "[mpi] OMPI_COMM_WORLD_LOCAL_RANK is ", job.local_rank,
        ", expected less than OMPI_COMM_WORLD_LOCAL_SIZE, ", job.local_size);
  return job;
}

}  // namespace lockstep::comm
