// Pending: the MPI requests of one exchange, and how they are given up.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi/runtime.h"

namespace lockstep::comm::mpi {

// For one thread. Call send(), receive(), adopt() and poll() only under runtime.locked(). The
// destructor cancels unfinished requests. If MPI cannot cancel one, because its transfer has begun,
// MPI is retired: it may still write to the memory later.
class Pending {
 public:
  explicit Pending(Runtime& runtime) : runtime_(runtime) {}
  ~Pending();
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;

  // `peer` is a rank of the job. The memory must stay valid until the request is done. Small
  // messages are copied by send().
  void send(int peer, int tag, const void* data, size_t bytes);
  void receive(int peer, int tag, void* data, size_t bytes);
  // Adds a request of another kind. It cannot be cancelled.
  void adopt(MPI_Request request);

  // Lets MPI work. Returns true when all requests are done.
  bool poll();
  // Ranks of the job that still have to send, or to receive, something; sorted.
  std::vector<int> unfinished_from() const { return unfinished(Kind::receive); }
  std::vector<int> unfinished_to() const { return unfinished(Kind::send); }
  bool has_large() const { return large_; }
  // Whether MPI may move data directly from one rank's memory to another's, at a time that it
  // chooses.
  bool has_shared() const { return shared_; }
  // The number of ranks involved.
  size_t peers() const;

 private:
  enum class Kind { send, receive, other };
  struct Entry {
    Kind kind;
    int peer;
    std::unique_ptr<std::string> copy;  // a small message that is being sent, else null
  };
  std::vector<int> unfinished(Kind kind) const;
  void add(Entry entry, MPI_Request request);
  void give_up() LOCKSTEP_REQUIRES(runtime_.mutex());

  Runtime& runtime_;
  std::vector<MPI_Request> requests_;  // MPI_REQUEST_NULL once done
  std::vector<Entry> entries_;
  std::vector<int> completed_;  // memory for MPI_Testsome
  bool large_ = false;
  bool shared_ = false;
};

}  // namespace lockstep::comm::mpi
