#include "train/parallel/groups.h"

#include "comm/local/hash_store.h"
#include "comm/mpi/factory.h"

namespace lockstep::train {
namespace {

bool started_by_mpirun(const launcher::RankEnv& rank) { return rank.source == "Open MPI"; }

std::string choose_backend(const ParallelConfig& config, const launcher::RankEnv& rank) {
  if (rank.size == 1) return "local";
  if (config.backend != "auto") {
    check(config.backend != "local",
          "parallel.backend local is for ranks that are threads of one process; for ", rank.size,
          " processes use shm, mpi or auto");
    check(config.backend != "mpi" || started_by_mpirun(rank),
          "parallel.backend mpi needs ranks started by mpirun: mpirun -np ", rank.size,
          " lockstep train …");
    return config.backend;
  }
  return started_by_mpirun(rank) ? "mpi" : "shm";
}

std::shared_ptr<comm::Store> store_for(const std::string& backend, const launcher::RankEnv& rank) {
  if (rank.size == 1 || backend == "mpi")
    return std::make_shared<comm::HashStore>();  // mpi finds its peers by itself
  if (launcher::has_store()) return launcher::connect_store();
  check(started_by_mpirun(rank), "rank ", rank.rank, " of ", rank.size, " (", rank.source,
        ") has no store to meet the others: set MASTER_ADDR (the host of rank 0) and MASTER_PORT "
        "(a free port there) for all ranks, or start "
        "them with `lockstep train -n`, `lockstep run` or Open MPI's mpirun");
  return comm::mpi_store();
}

}  // namespace

std::shared_ptr<comm::ProcessGroup> make_group(const ParallelConfig& config,
                                               const launcher::RankEnv& rank) {
  const std::string backend = choose_backend(config, rank);
  std::optional<Duration> timeout;
  if (config.timeout_s > 0)
    timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config.timeout_s));
  return comm::create(
      backend, store_for(backend, rank), rank.rank, rank.size,
      {.timeout = timeout,
       .reduction = config.reduction == "fast" ? comm::Reduction::fast : comm::Reduction::tree});
}

}  // namespace lockstep::train
