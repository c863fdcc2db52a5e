#include "train/parallel/groups.h"

#include "comm/local/hash_store.h"
#include "comm/mpi/factory.h"

namespace lockstep::train {
namespace {

bool started_by_mpirun(const launcher::RankEnv& rank) { return rank.source == "Open MPI"; }

BackendKind choose_backend(const ParallelConfig& config, const launcher::RankEnv& rank,
                           Device device) {
  const bool on_cpu = device.type == DeviceType::cpu;
  check(config.backend != BackendKind::nccl || !on_cpu,
        "parallel.backend nccl is for CUDA devices, and this run computes on the CPU: set device "
        "to cuda, or use parallel.backend auto");
  if (rank.size == 1) return BackendKind::local;
  if (config.backend == BackendKind::automatic) {
    if (!on_cpu) return BackendKind::automatic;
    if (started_by_mpirun(rank)) return BackendKind::mpi;
    // Ranks of several agents may still be on one host; they find out when they meet.
    return rank.local_size == rank.size ? BackendKind::shm : BackendKind::automatic;
  }
  check(config.backend != BackendKind::local,
        "parallel.backend local is for ranks that are threads of one process; for ", rank.size,
        " processes use shm, ucx, mpi or auto");
  check(config.backend != BackendKind::mpi || started_by_mpirun(rank),
        "parallel.backend mpi needs ranks started by mpirun: mpirun -np ", rank.size,
        " lockstep train …");
  return config.backend;
}

std::shared_ptr<comm::Store> store_for(BackendKind backend, const launcher::RankEnv& rank) {
  if (rank.size == 1 || backend == BackendKind::mpi)
    return std::make_shared<comm::HashStore>();  // mpi finds its peers without it
  if (launcher::has_store()) return launcher::connect_store();
  check(started_by_mpirun(rank), "rank ", rank.rank, " of ", rank.size, " (", rank.source,
        ") has no store to meet the others: set MASTER_ADDR (the host of rank 0) and MASTER_PORT "
        "(a free port there) for all ranks, or start "
        "them with `lockstep train -n`, `lockstep run` or Open MPI's mpirun");
  return comm::mpi_store();
}

// Ranks on CPUs and ranks on other devices would form different groups and wait for each other. So
// the first rank leaves its kind of device in the store, and the others compare. MPI has no store
// here, but it compares the names of groups, and those on devices form one for the host first.
void check_same_kind(comm::Store& store, int rank, Device device) {
  const std::string mine(device.type == DeviceType::cpu ? "cpu" : "cuda");
  const std::string first = store.compare_and_set("kind of device", "", mine);
  check(first == mine, "rank ", rank, " would compute on device ", mine, ", but others on ", first,
        ": set device to cpu or cuda for all ranks, since auto depends on the machine");
}

}  // namespace

std::shared_ptr<comm::ProcessGroup> make_group(const ParallelConfig& config,
                                               const launcher::RankEnv& rank, Device device,
                                               const OverStore& over) {
  const BackendKind backend = choose_backend(config, rank, device);
  std::optional<Duration> timeout;
  if (config.timeout_s > 0)
    timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config.timeout_s));
  const auto reduction =
      config.reduction == ReductionKind::fast ? comm::Reduction::fast : comm::Reduction::tree;
  auto store = store_for(backend, rank);
  if (over) store = over(std::move(store));
  check_same_kind(*store, rank.rank, device);
  return comm::create(std::string(word_of(backend)), store, rank.rank, rank.size,
                      {.timeout = timeout, .reduction = reduction, .device = device});
}

ParallelConfig with_backend(std::string_view backend) {
  const auto known = from_word<BackendKind>(backend);
  check(known.has_value(), "'", backend,
        "' is not a backend: expected auto, shm, ucx, mpi or nccl");
  ParallelConfig config;
  config.backend = *known;
  return config;
}

}  // namespace lockstep::train
