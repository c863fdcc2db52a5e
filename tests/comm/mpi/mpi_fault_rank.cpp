// A rank for mpi_fault_test: reduces for ever, until the last rank comes to the step at which it
// has an accident.
//
//   mpi_fault_rank ACCIDENT HOW     ACCIDENT: stop, kill, exit, throw, "never starts"
//                                   HOW: tree, fast, shm (not over MPI), groups (makes groups for
//                                   ever, and is patient with all ranks but stopped ones)
//
// Prints "rank R: MESSAGE" for an error, and returns 1 for it, as programs do.
#include <cstdio>
#include <string>

#include <signal.h>
#include <unistd.h>

#include "comm/mpi/factory.h"
#include "comm/mpi/job.h"
#include "comm/mpi/transport.h"
#include "comm/process_group.h"
#include "core/base/error.h"

using namespace lockstep;
using namespace lockstep::comm;

namespace {

constexpr int kAccidentAt = 20;

void have(const std::string& accident) {
  if (accident == "stop") raise(SIGSTOP);
  if (accident == "kill") raise(SIGKILL);
  if (accident == "exit") _exit(0);  // without a word to MPI
  if (accident == "throw") throw EnvironmentError("the data is gone");
}

void reduce_for_ever(const MpiJob& job, const std::string& accident, const std::string& how) {
  // Starting MPI may take long on a busy machine; only what comes then has a short limit.
  const Duration start_limit = std::chrono::seconds(accident == "never starts" ? 2 : 30);
  const auto start =
      create("mpi", nullptr, job.rank, job.size, {.name = "start", .timeout = start_limit});
  const GroupOptions options{.timeout = std::chrono::seconds(4),
                             .reduction = how == "fast" ? Reduction::fast : Reduction::tree};
  const auto world = how == "shm" ? create("shm", mpi_store(), job.rank, job.size, options)
                                  : create("mpi", nullptr, job.rank, job.size, options);
  const Tensor tensor = Tensor::zeros({1 << 18});
  for (int step = 0;; ++step) {
    if (job.rank == job.size - 1 && step == kAccidentAt) have(accident);
    world->all_reduce(tensor).wait();
  }
}

void make_groups_for_ever(const MpiJob& job, const std::string& accident) {
  mpi::Runtime& runtime = mpi::Runtime::start(Deadline::after(std::chrono::seconds(30)));
  std::vector<int> all;
  for (int rank = 0; rank < job.size; ++rank) all.push_back(rank);
  mpi::MpiTransport transport(runtime, runtime.size() * 1000, all);
  for (int step = 0;; ++step) {
    if (job.rank == job.size - 1 && step == kAccidentAt) have(accident);
    mpi::agree_on_context(transport, "group",
                          Limit(Patience(std::chrono::hours(1), std::chrono::seconds(2))));
  }
}

}  // namespace

int main(int count, char** arguments) {
  const MpiJob job = mpi_job().value_or(MpiJob{});
  try {
    check(count == 3, "expected ACCIDENT HOW");
    if (std::string(arguments[1]) == "never starts" && job.rank == job.size - 1) {
      raise(SIGSTOP);
      return 0;
    }
    if (std::string(arguments[2]) == "groups") make_groups_for_ever(job, arguments[1]);
    reduce_for_ever(job, arguments[1], arguments[2]);
  } catch (const Error& error) {
    std::printf("rank %d: %s\n", job.rank, error.what());
    std::fflush(stdout);
    return 1;
  }
}
