// Pending: the MPI requests of one exchange, and what becomes of them when it is given up.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi/runtime.h"

namespace lockstep::comm::mpi {

// Of one thread. send(), receive(), adopt() and poll() only under runtime.locked(). What is not
// done when it is destroyed is cancelled; where MPI cannot cancel (the transfer has begun), MPI is
// retired, because it may write into the memory later.
class Pending {
 public:
  explicit Pending(Runtime& runtime) : runtime_(runtime) {}
  ~Pending();
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;

  // `peer` is a rank of the job. The memory must live until the request is done, or for send() of
  // small messages not at all.
  void send(int peer, int tag, const void* data, size_t bytes);
  void receive(int peer, int tag, void* data, size_t bytes);
  // A request of another kind; cannot be cancelled.
  void adopt(MPI_Request request);

  // Gives MPI time to work; true when all are done.
  bool poll();
  // Ranks of the job from which something is missing, or which have not taken something; sorted.
  std::vector<int> unfinished_from() const { return unfinished(Kind::receive); }
  std::vector<int> unfinished_to() const { return unfinished(Kind::send); }
  bool has_large() const { return large_; }
  // Whether MPI may move something straight from one rank's memory to another's, at a time that it
  // chooses.
  bool has_shared() const { return shared_; }
  // How many ranks it has to do with.
  size_t peers() const;

 private:
  enum class Kind { send, receive, other };
  struct Entry {
    Kind kind;
    int peer;
    std::unique_ptr<std::string> copy;  // of a small message that is sent, else null
  };
  std::vector<int> unfinished(Kind kind) const;
  void add(Entry entry, MPI_Request request);
  void give_up() LOCKSTEP_REQUIRES(runtime_.mutex());

  Runtime& runtime_;
  std::vector<MPI_Request> requests_;  // MPI_REQUEST_NULL when done
  std::vector<Entry> entries_;
  std::vector<int> completed_;  // room for MPI_Testsome
  bool large_ = false;
  bool shared_ = false;
};

}  // namespace lockstep::comm::mpi
