#include <algorithm>

#include "comm/engine/backend.h"
#include "comm/engine/meeting.h"
#include "comm/engine/roll_call.h"
#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/mpi/factory.h"
#include "comm/mpi/job.h"
#include "comm/nccl/factory.h"
#include "comm/process_group.h"
#include "comm/shm/factory.h"
#include "comm/staged/factory.h"
#include "comm/store.h"
#include "comm/ucx/factory.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm {
namespace {

// Whether all ranks are on one host: they see each other's processes and share its network.
bool on_one_host(Store& place, int rank, int size, const GroupOptions& options) {
  const auto all = call_roll(place, rank, size, "", Limit(patience_of(options.timeout)), "auto");
  return std::all_of(all.begin(), all.end(), [&](const Attendant& a) {
    return a.processes == all.front().processes && a.network == all.front().network;
  });
}

std::unique_ptr<Backend> make_backend(const std::string& backend, std::shared_ptr<Store> store,
                                      int rank, int size, const GroupOptions& options) {
  if (backend == "mpi") return make_mpi(std::move(store), rank, size, options);
  const bool automatic = backend == "auto";
  check(automatic || backend == "local" || backend == "shm" || backend == "ucx",
        "[comm] unknown backend '", backend, "': this build has auto, local, shm",
        has_mpi() ? ", mpi" : "", has_ucx() ? ", ucx" : "",
        options.device.type == DeviceType::cuda ? ", nccl" : "");
  // A single rank has nobody to share memory with.
  if (size == 1) return make_local(std::make_shared<HashStore>(), rank, size, options);
  check(store != nullptr, "[comm] backend '", backend, "' with ", size, " ranks needs a store");
  return meet(store, options.name, rank, size, [&](std::shared_ptr<Store> place) {
    const bool between_hosts =
        automatic && !on_one_host(*with_prefix(place, "hosts"), rank, size, options);
    if (backend == "ucx" || between_hosts) return make_ucx(std::move(place), rank, size, options);
    return backend == "local" ? make_local(std::move(place), rank, size, options)
                              : make_shm(std::move(place), rank, size, options);
  });
}

GroupOptions options_of_host(GroupOptions options) {
  options.name += "/host";
  options.device = kCpu;
  return options;
}

// The backend of the CPU beside NCCL: all ranks of an mpirun's job meet there, others in shared
// memory or between hosts.
std::string host_backend(int size) {
  const auto job = mpi_job();
  return has_mpi() && job && job->size == size && size > 1 ? "mpi" : "auto";
}

// "nccl", "auto", or a backend of the CPU, which staging then uses.
std::unique_ptr<ProcessGroup> create_on_device(const std::string& backend,
                                               std::shared_ptr<Store> store, int rank, int size,
                                               const GroupOptions& options) {
  // A rank without its device says so before the others count on it.
  current_queue(options.device);
  const bool wants_nccl = backend == "nccl";
  const bool asks_nccl = wants_nccl || (backend == "auto" && size > 1);
  const std::string on_host = asks_nccl ? host_backend(size) : backend;
  auto host = create(on_host, store, rank, size, options_of_host(options));
  const std::string why_not =
      asks_nccl && size > 1 ? why_no_nccl(*host, options.device) : std::string();
  check(!wants_nccl || why_not.empty(), why_not);
  auto inner = make_backend(on_host, std::move(store), rank, size, options);
  const bool nccl = asks_nccl && why_not.empty();
  auto formed = nccl ? make_nccl(std::move(inner), options.device, options)
                     : make_staged(std::move(inner), options.device);
  if (asks_nccl && !nccl && rank == 0)
    log::info("[comm] group '", options.name, "' goes through pinned memory: ", why_not);
  return std::make_unique<ProcessGroup>(std::move(formed), options, std::move(host));
}

}  // namespace

std::unique_ptr<ProcessGroup> create(const std::string& backend, std::shared_ptr<Store> store,
                                     int rank, int size, const GroupOptions& options) {
  check(size >= 1 && rank >= 0 && rank < size, "[comm] rank must be in [0, size), got rank ", rank,
        " of ", size);
  if (options.timeout)
    check(*options.timeout > Duration::zero(), "[comm] the timeout must be positive, got ",
          seconds(*options.timeout), " s");
  if (options.device.type == DeviceType::cuda)
    return create_on_device(backend, std::move(store), rank, size, options);
  check(backend != "nccl", "[comm] backend 'nccl' is for CUDA devices, and the group's device is ",
        options.device);
  return std::make_unique<ProcessGroup>(
      make_backend(backend, std::move(store), rank, size, options), options);
}

std::unique_ptr<ProcessGroup> create(std::unique_ptr<Backend> backend, std::shared_ptr<Store> store,
                                     const GroupOptions& options) {
  std::unique_ptr<ProcessGroup> host;
  if (backend->device().type != DeviceType::cpu)
    host = create("auto", std::move(store), backend->rank(), backend->size(),
                  options_of_host(options));
  return std::make_unique<ProcessGroup>(std::move(backend), options, std::move(host));
}

}  // namespace lockstep::comm
