#include "comm/engine/backend.h"
#include "comm/engine/meeting.h"
#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/mpi/factory.h"
#include "comm/process_group.h"
#include "comm/shm/factory.h"
#include "comm/staged/factory.h"
#include "comm/store.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

std::unique_ptr<Backend> make_backend(const std::string& backend, std::shared_ptr<Store> store,
                                      int rank, int size, const GroupOptions& options) {
  if (backend == "mpi") return make_mpi(std::move(store), rank, size, options);
  const bool automatic = backend == "auto";
  check(automatic || backend == "local" || backend == "shm", "[comm] unknown backend '", backend,
        "': this build has auto, local, shm", has_mpi() ? ", mpi" : "");
  // A single rank has nobody to share memory with.
  if (size == 1) return make_local(std::make_shared<HashStore>(), rank, size, options);
  check(store != nullptr, "[comm] backend '", backend, "' with ", size, " ranks needs a store");
  return meet(store, options.name, rank, size, [&](std::shared_ptr<Store> place) {
    return backend == "local" ? make_local(std::move(place), rank, size, options)
                              : make_shm(std::move(place), rank, size, options);
  });
}

GroupOptions options_of_host(GroupOptions options) {
  options.name += "/host";
  options.device = kCpu;
  return options;
}

}  // namespace

std::unique_ptr<ProcessGroup> create(const std::string& backend, std::shared_ptr<Store> store,
                                     int rank, int size, const GroupOptions& options) {
  check(size >= 1 && rank >= 0 && rank < size, "[comm] rank must be in [0, size), got rank ", rank,
        " of ", size);
  if (options.timeout)
    check(*options.timeout > Duration::zero(), "[comm] the timeout must be positive, got ",
          seconds(*options.timeout), " s");
  const bool staged = options.device.type != DeviceType::cpu;
  // A rank without its device says so before the others count on it.
  if (staged) current_queue(options.device);
  auto formed = make_backend(backend, store, rank, size, options);
  if (!staged) return std::make_unique<ProcessGroup>(std::move(formed), options);
  formed = make_staged(std::move(formed), options.device);
  auto host = create(backend, std::move(store), rank, size, options_of_host(options));
  return std::make_unique<ProcessGroup>(std::move(formed), options, std::move(host));
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
