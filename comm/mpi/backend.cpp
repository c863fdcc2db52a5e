#include <algorithm>
#include <numeric>

#include "comm/local/hash_store.h"
#include "comm/mpi/factory.h"
#include "comm/mpi/job.h"
#include "comm/mpi/mpi_store.h"
#include "comm/mpi/native.h"
#include "comm/mpi/transport.h"
#include "core/base/error.h"
#include "core/tensor/storage.h"

namespace lockstep::comm {
namespace mpi {
namespace {

class MpiBackend final : public Backend {
 public:
  // `communicator` contains exactly `members`, in the same order. MPI_COMM_NULL means that MPI's
  // own collectives are not used.
  MpiBackend(Runtime& runtime, int context, std::vector<int> members, MPI_Comm communicator)
      : transport_(runtime, context, std::move(members)), communicator_(communicator) {}

  std::string name() const override { return "mpi"; }
  int rank() const override { return transport_.rank(); }
  int size() const override { return transport_.size(); }
  Device device() const override { return kCpu; }

  Event execute(const Call& call) override {
    run(call);
    return {};
  }

  void check_running() override { transport_.check_running(); }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override {
    if (size() == 1)
      return std::make_unique<MpiBackend>(transport_.runtime(), transport_.context(),
                                          std::vector{transport_.world_rank(0)}, MPI_COMM_NULL);
    const int context = agree_on_context(transport_, "", plan.limit);
    if (plan.color < 0) return nullptr;
    std::vector<int> members;
    for (const int r : plan.ranks) members.push_back(transport_.world_rank(r));
    return std::make_unique<MpiBackend>(transport_.runtime(), context, std::move(members),
                                        MPI_COMM_NULL);
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    auto storage = std::make_shared<Storage>(bytes, kCpu);
    std::fill_n(static_cast<std::byte*>(storage->data()), bytes, std::byte{0});
    return storage;
  }

  void abort(const std::string& reason) noexcept override { transport_.abort(reason); }

 private:
  void run(const Call& call) {
    if (communicator_ == MPI_COMM_NULL || !is_native(call)) return execute_over(transport_, call);
    // A barrier over the transport compares the fingerprints, with limits and names; then MPI may
    // move data.
    Call meeting = call;
    meeting.op = Op::barrier;
    execute_over(transport_, meeting);
    if (call.op == Op::barrier) return;
    execute_native(transport_.runtime(), communicator_, rank(), call, [&](MPI_Request request) {
      Pending pending(transport_.runtime());
      pending.adopt(request);
      transport_.complete(pending, call.limit);
    });
  }

  MpiTransport transport_;
  const MPI_Comm communicator_;
};

// The transport over which ranks agree on new groups. Like the runtime, it is never destroyed.
MpiTransport& creation_transport(Runtime& runtime) {
  static MpiTransport& transport = *[&] {
    std::vector<int> all(static_cast<size_t>(runtime.size()));
    std::iota(all.begin(), all.end(), 0);
    return new MpiTransport(runtime, kCreationContext, std::move(all));
  }();
  return transport;
}

// A communicator for MPI's own collectives. It is never freed: a process has few groups, and
// freeing needs all ranks again. Only groups of the whole job get one, because MPI has no
// non-blocking call that makes a communicator for a part of the ranks.
MPI_Comm duplicate_world(Runtime& runtime, const Limit& limit) {
  // MPI may write this after we have given up, so it is never freed.
  MPI_Comm& made = *new MPI_Comm(MPI_COMM_NULL);
  Pending pending(runtime);
  runtime.locked([&] {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Comm_idup(runtime.world(), &made, &request), "MPI_Comm_idup");
    pending.adopt(request);
  });
  creation_transport(runtime).complete(pending, limit);
  return made;
}

}  // namespace
}  // namespace mpi

bool has_mpi() { return true; }

std::unique_ptr<Backend> make_mpi(std::shared_ptr<Store>, int rank, int size,
                                  const GroupOptions& options) {
  const auto job = mpi_job();
  check(size == 1 || job.has_value(),
        "[mpi] this process was not started by mpirun; use: mpirun -np ", size, " PROGRAM");
  check(!job || (job->rank == rank && job->size == size), "[mpi] mpirun made this process rank ",
        job ? job->rank : 0, " of ", job ? job->size : 1, ", got rank ", rank, " of ", size);
  if (size == 1)
    return std::make_unique<mpi::MpiBackend>(mpi::Runtime::instance(), mpi::kCreationContext,
                                             std::vector{0}, MPI_COMM_NULL);
  const Limit limit(patience_of(options.timeout));
  mpi::Runtime& runtime = mpi::Runtime::start(Deadline::after(limit.remaining()));
  static Mutex one_at_a_time;
  const MutexLock lock(one_at_a_time);
  const int context = mpi::agree_on_context(mpi::creation_transport(runtime), options.name, limit);
  std::vector<int> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  const MPI_Comm communicator =
      options.reduction == Reduction::fast ? mpi::duplicate_world(runtime, limit) : MPI_COMM_NULL;
  return std::make_unique<mpi::MpiBackend>(runtime, context, std::move(all), communicator);
}

std::shared_ptr<Store> mpi_store(Duration timeout) {
  struct Made {
    Mutex mutex;
    std::shared_ptr<Store> store LOCKSTEP_GUARDED_BY(mutex);
  };
  static Made& made = *new Made;  // never destroyed: groups may outlive static objects
  const MutexLock lock(made.mutex);
  std::shared_ptr<Store>& store = made.store;
  if (store) return store;
  const auto job = mpi_job();
  if (!job || job->size == 1) return store = std::make_shared<HashStore>();
  mpi::Runtime& runtime = mpi::Runtime::start(Deadline::after(timeout));
  if (job->rank != 0) return store = std::make_shared<mpi::MpiStore>(runtime);
  store = std::make_shared<HashStore>();
  auto server = std::make_shared<mpi::StoreServer>(runtime, store);
  runtime.at_end([server] { server->stop(); });
  return store;
}

}  // namespace lockstep::comm
