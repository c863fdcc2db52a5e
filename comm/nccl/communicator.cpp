#include "comm/nccl/communicator.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/device/cuda/stream.h"

namespace lockstep::comm::nccl {
namespace {

// Between two looks at the state.
constexpr Duration kShortNap = std::chrono::microseconds(20),
                   kLongNap = std::chrono::milliseconds(1);
// What is queued is quickly done, and a peer that has done its part may be gone. So peers are
// looked at only if NCCL takes longer.
constexpr Duration kQuick = std::chrono::milliseconds(200);
// How long an orderly end may take.
constexpr Duration kFarewell = std::chrono::seconds(5);

}  // namespace

Communicator::Communicator(Device device, const UniqueId& id, int rank, int size,
                           const std::string& name, const Limit& limit, const Check& check)
    : queue_(Queue::create(device)) {
  constexpr const char* kWhat = "forming the communicator";
  try {
    {
      const MutexLock lock(mutex_);
      cuda::stream_of(queue_);  // makes the device current
      const int result = api().init(&comm_, size, id, rank, name.c_str());
      if (result != kSuccess && result != kInProgress) fail(kWhat, result);
    }
    settle(kWhat, limit, check);
  } catch (...) {
    abort();
    throw;
  }
}

Communicator::~Communicator() {
  const Limit limit(Deadline::after(kFarewell));
  try {
    {
      const MutexLock lock(mutex_);
      if (!comm_) return;
      cuda::stream_of(queue_);
      const int result = api().finalize(comm_);
      if (result != kSuccess && result != kInProgress) fail("finishing", result);
    }
    settle("finishing", limit, [] {});
    const MutexLock lock(mutex_);
    api().destroy(std::exchange(comm_, nullptr));
  } catch (const std::exception&) {
    abort();
  }
}

void Communicator::run(const char* what, const Body& body, const Limit& limit, const Check& check) {
  {
    const MutexLock lock(mutex_);
    check_here();
    void* const stream = cuda::stream_of(queue_);
    int result = api().group_start();
    if (result == kSuccess) {
      result = body(comm_, stream);
      const int ended = api().group_end();
      if (result == kSuccess || result == kInProgress) result = ended;
    }
    if (result == kSuccess) return;
    if (result != kInProgress) fail(what, result);
  }
  settle(what, limit, check);
}

void Communicator::settle(const char* what, const Limit& limit, const Check& check) {
  const auto start = Clock::now();
  for (Duration nap = kShortNap;; nap = std::min(2 * nap, kLongNap)) {
    if (state(what) == kSuccess) return;
    if (Clock::now() - start >= kQuick) check();
    if (limit.passed_in_time())
      throw TimeoutError(str(limit.reached(), ": [nccl] ", what, " takes longer"));
    std::this_thread::sleep_for(nap);
  }
}

int Communicator::state(const char* what) {
  const MutexLock lock(mutex_);
  check_here();
  int now = kSuccess;
  int result = api().state(comm_, &now);
  if (result == kSuccess) result = now;
  if (result != kSuccess && result != kInProgress) fail(what, result);
  return result;
}

void Communicator::check_state() { state("running"); }

void Communicator::check_here() const {
  if (!comm_) throw FromPeer<EnvironmentError>("[nccl] the communicator was aborted");
}

void Communicator::fail(const char* what, int result) {
  const std::string detail = api().last_error(comm_);
  const std::string message = str("[nccl] ", what, ": ", api().error_text(result),
                                  detail.empty() ? "" : str(" (", detail, ")"),
                                  "; NCCL_DEBUG=WARN in the environment shows NCCL's own log");
  if (result == kRemoteError) throw FromPeer<EnvironmentError>(message);
  throw EnvironmentError(message);
}

void Communicator::abort() noexcept {
  CommHandle comm = nullptr;
  {
    const MutexLock lock(mutex_);
    comm = std::exchange(comm_, nullptr);
  }
  if (!comm) return;
  const auto end = [queue = queue_, comm] {
    try {
      cuda::stream_of(queue);
    } catch (const std::exception&) {
      // A device that has failed needs no current device to be given up.
    }
    api().abort(comm);
  };
  // NCCL returns once the device has passed what is queued, which may be never: nobody waits.
  try {
    std::thread(end).detach();
  } catch (const std::exception&) {
    end();
  }
}

}  // namespace lockstep::comm::nccl
