// Transport: bytes between pairs of ranks, from which execute_over() makes every collective. A
// backend that can only send and receive (mpi in tree order) implements this and is done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "comm/engine/limit.h"

namespace lockstep::comm {

struct Call;

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  struct Send {
    int to;
    const void* data;
    size_t bytes;
  };
  struct Receive {
    int from;
    void* data;
    size_t bytes;
    size_t* got = nullptr;  // not null: the message may be shorter than `bytes`, and is this long
  };
  // Messages of different channels never meet. message: from a send() to its recv(); answer: back.
  // opening: the first messages of a collective, where data rides along with fingerprints.
  enum class Channel : uint8_t { collective, message, answer, opening };

  // How many bytes of data may ride along in the first message of a collective. 0: none, `opening`
  // is never used, and no receive has `got`. Constant, and the same on all ranks. What rides along
  // is a copy, so it is right even if its sender gave up meanwhile, and a transport may deliver it
  // then.
  virtual size_t most_to_ride_along() const { return 0; }

  // Starts all of the sends and receives, in any order, and returns when all are done. Between two
  // ranks the messages of one channel and direction match in the order of the exchanges and, inside
  // one, of the lists; sizes of matching messages are equal, and may be 0. Never to or from the own
  // rank. One exchange must not wait for another one's progress: threads call it at the same time,
  // one for the collectives, one for each peer's sends and one for each peer's receives.
  //
  // Throws as Backend::execute() does; a TimeoutError begins with limit.reached() and names the
  // ranks from which something is missing.
  virtual void exchange(Channel channel, std::span<const Send> sends,
                        std::span<const Receive> receives, const Limit& limit) = 0;

  // Memory for the collective that runs, kept for later ones: fresh memory of some megabytes costs
  // as much as sending it. Contents are undefined; the next call of scratch() may take it back.
  std::byte* scratch(size_t bytes) {
    if (scratch_bytes_ < bytes) {
      scratch_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      scratch_bytes_ = bytes;
    }
    return scratch_.get();
  }

 private:
  std::unique_ptr<std::byte[]> scratch_;
  size_t scratch_bytes_ = 0;
};

// Runs any call over the transport (Backend::execute() has the contract): compares fingerprints,
// then moves the data. Reductions run as a direct exchange – each rank gets its slice from all
// others and sums it in the tree's order – which moves as many bytes as a ring, keeps any order of
// summation and carries 16-bit sums in f32.
void execute_over(Transport& transport, const Call& call);

}  // namespace lockstep::comm
