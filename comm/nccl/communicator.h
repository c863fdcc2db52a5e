// Communicator: NCCL's communicator with a queue of its own. Calls return at once, waits have
// limits, and an abort may come at any time.
#pragma once

#include <functional>
#include <string>

#include "comm/engine/limit.h"
#include "comm/nccl/api.h"
#include "core/base/mutex.h"
#include "core/device/queue.h"

namespace lockstep::comm::nccl {

// Throws if whatever a wait waits for will not come: the group has ended, or a peer has gone.
using Check = std::function<void()>;

// Thread-safe.
class Communicator {
 public:
  // Joins the other ranks, which all come with the same id. Throws EnvironmentError with NCCL's
  // reason, TimeoutError at the limit, or what `check` throws. `name`: the group's.
  Communicator(Device device, const UniqueId& id, int rank, int size, const std::string& name,
               const Limit& limit, const Check& check);
  // Waits for what is queued, but not long.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const Queue& queue() const { return queue_; }

  // Makes the calls of `body` as one unit. They return results of the NcclApi, and body() the first
  // that is no success. Returns once all are queued. Throws as the constructor does; `what` names
  // the calls.
  using Body = std::function<int(CommHandle comm, StreamHandle stream)>;
  void run(const char* what, const Body& body, const Limit& limit, const Check& check);

  // Throws EnvironmentError if the communicator has failed.
  void check_state();
  // What is queued comes to an end, with any results.
  void abort() noexcept;

 private:
  // Waits until NCCL has done what was asked for.
  void settle(const char* what, const Limit& limit, const Check& check);
  int state(const char* what);
  [[noreturn]] void fail(const char* what, int result) LOCKSTEP_REQUIRES(mutex_);
  void check_here() const LOCKSTEP_REQUIRES(mutex_);

  const Queue queue_;
  Mutex mutex_;
  CommHandle comm_ LOCKSTEP_GUARDED_BY(mutex_) = nullptr;  // null once aborted
};

}  // namespace lockstep::comm::nccl
