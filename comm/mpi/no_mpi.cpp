#include "comm/mpi/factory.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

constexpr const char* kMissing =
    "[mpi] this build has no MPI: install libopenmpi-dev and openmpi-bin, configure with "
    "-DLOCKSTEP_MPI=ON and build again";

}  // namespace

bool has_mpi() { return false; }

std::unique_ptr<Backend> make_mpi(std::shared_ptr<Store>, int, int, const GroupOptions&) {
  throw UsageError(kMissing);
}

std::shared_ptr<Store> mpi_store(Duration) { throw UsageError(kMissing); }

}  // namespace lockstep::comm
