// One rank's part of a state in one block of memory, as replicas keep and send it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save/save_job.h"

namespace lockstep::checkpoint {

// Where each part of a rank is. Equal on all ranks with the same plan.
struct CopyLayout {
  struct Placed {
    Part part;
    int64_t begin = 0;  // in bytes; aligned so that no element crosses a chunk boundary
    int64_t bytes() const { return part.shard.length() * size_of(part.dtype); }
  };
  std::vector<Placed> parts;
  int64_t bytes = 0;
  uint64_t digest = 0;  // identifies owner, parts and `identity`

  // The parts that overlap bytes [begin, begin + bytes), as a span.
  std::span<const Placed> within(int64_t begin, int64_t bytes) const;
};
// `identity`: identifies the owner of the state, so copies of others are not mistaken for it.
CopyLayout lay_out_copy(const Plan& plan, int rank, std::string_view identity = {});

// The memory of a copy.
struct StateCopy {
  Tensor data;  // u8 [bytes]
  Tensor sums;  // i64: XXH3 of each chunk

  // Copies the slices (slices_of()) to `data` and computes the sums, with all threads. Each chunk
  // is summed while it is in the cache.
  void fill(const std::vector<Tensor>& slices, const CopyLayout& layout) const;
  // Returns the first chunk whose sum differs from `sums`, or -1 if all are right.
  int64_t first_damaged_chunk() const;
};

// This rank's parts of the entries, contiguous, in the order of the layout.
std::vector<Tensor> slices_of(const std::vector<Entry>& entries, const CopyLayout& layout);

// Sends `out` to one rank and receives `in` from another at the same time; either may be empty.
// Uses messages of bounded size, a few at a time.
void exchange_bytes(comm::ProcessGroup& group, const Tensor& out, int to, const Tensor& in,
                    int from);

// Distributes the bytes of copies to the tensors of the entries, wherever they overlap with a
// copy's parts.
class CopyReader {
 public:
  explicit CopyReader(const std::vector<Entry>& entries);
  // Takes the verified bytes [begin, begin + bytes) of a copy; whole elements only.
  void take(const CopyLayout& layout, int64_t begin, const void* data, int64_t bytes);
  // Call this last. It fills tensors that are not contiguous host memory.
  void finish();

 private:
  struct Target {
    Tensor tensor, host;  // host: contiguous; the tensor itself if possible
    ShardSpec shard;
  };
  std::unordered_map<std::string, Target> targets_;
};

// Copies from one rank's memory to another's tensors, piece by piece. The receiver returns the
// first chunk with a wrong sum, or -1; it takes no values from that chunk on.
void send_copy(comm::ProcessGroup& group, const StateCopy& copy, int to);
int64_t receive_copy(comm::ProcessGroup& group, const CopyLayout& layout, int from,
                     CopyReader& reader);

}  // namespace lockstep::checkpoint
