// The suite with the ranks that mpirun started: this process is one of them.
#include "comm/mpi/job.h"
#include "tests/conformance/process_group_suite.h"

namespace lockstep::test {
namespace {

comm::MpiJob job() { return comm::mpi_job().value_or(comm::MpiJob{}); }

void run_here(const std::string& backend, int size,
              const std::function<void(const MakeGroup&)>& body) {
  try {
    body([&](const GroupOptions& options) {
      return comm::create(backend, nullptr, job().rank, size, options);
    });
  } catch (const std::exception& e) {
    ADD_FAILURE() << "rank " << job().rank << " threw: " << e.what();
  }
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(mpi, ProcessGroupSuite,
                         testing::ValuesIn(cases("mpi", {job().size}, run_here)), case_name);

}  // namespace lockstep::test
