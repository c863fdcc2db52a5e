// A simulated communicator. Each operation is two pieces of queued work: one posts what this rank
// sends, the other takes what it receives once the others have posted it. As with NCCL, an
// operation whose peers do not come never ends, and nobody says so.
//
// Messages between two ranks match in order. Where NCCL would give garbage or hang because two
// ranks make different operations, the communicator fails. A group takes one message to and from a
// peer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "comm/nccl/sim/faults.h"
#include "comm/nccl/sim/segment.h"
#include "core/base/mutex.h"

namespace lockstep::comm::nccl::sim {

struct Operation {
  struct Send {
    int to;
    const void* data;
    size_t bytes;
  };
  struct Receive {
    int from;
    void* data;  // null: into memory of the operation, for `finish`
    size_t bytes;
  };
  const char* name = "";
  uint64_t signature = 0;
  std::vector<Send> sends;
  std::vector<Receive> receives;
  // Runs last, with what was received in the order of `receives`. May be empty.
  std::function<void(const std::vector<const void*>& received)> finish;
};

class SimCommunicator : public std::enable_shared_from_this<SimCommunicator> {
 public:
  // Throws EnvironmentError.
  SimCommunicator(const UniqueId& id, int rank, int size);
  ~SimCommunicator();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // kSuccess, kInProgress or an error.
  int state();
  void abort();
  // Throws EnvironmentError for a stream that does not exist.
  void enqueue(Operation operation, StreamHandle stream);

  // state() is kInProgress until the others have taken what this rank has posted.
  void finalize() { finalizing_.store(true); }

 private:
  struct Running;
  struct File {
    int fd;
    std::vector<std::pair<int, uint64_t>> messages;  // receiver, number
  };
  bool may_post(const Running& running);
  void post(const Running& running);
  bool may_take(Running& running);
  void take(Running& running);
  bool everybody_joined();
  // Closes files whose messages were taken; returns whether that were all.
  bool close_taken();
  void fail(int error);

  Segment segment_;
  const int rank_, size_;
  uint64_t operations_ = 0;                // issued
  std::vector<uint64_t> sent_, received_;  // messages issued, by peer
  std::atomic<bool> aborted_{false}, finalizing_{false};
  std::atomic<int> error_{kSuccess};
  std::atomic<int> slow_answers_{0};  // so often state() says "in progress"
  Mutex mutex_;
  std::vector<File> files_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm::nccl::sim
