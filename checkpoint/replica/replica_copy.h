// One rank's part of a state in one piece of memory, as replicas keep and send it.
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

// Where each part of a rank lies. Equal on all ranks that have the same plan.
struct CopyLayout {
  struct Placed {
    Part part;
    int64_t begin = 0;  // in bytes; aligned so that no element lies in two chunks
    int64_t bytes() const { return part.shard.length() * size_of(part.dtype); }
  };
  std::vector<Placed> parts;
  int64_t bytes = 0;
  uint64_t digest = 0;  // of whose parts these are, and which, and of `identity`

  // Those of which bytes [begin, begin + bytes) hold any: from the first to the end of the span.
  std::span<const Placed> within(int64_t begin, int64_t bytes) const;
};
// `identity`: of what the state belongs to; copies of another are not taken for this one.
CopyLayout lay_out_copy(const Plan& plan, int rank, std::string_view identity = {});

// The memory of a copy.
struct StateCopy {
  Tensor data;  // u8 [bytes]
  Tensor sums;  // i64: XXH3 of each chunk

  // Copies slices_of() some entries into `data` and sums them up, with all threads: a chunk is
  // summed while it is in the cache.
  void fill(const std::vector<Tensor>& slices, const CopyLayout& layout) const;
  // The first chunk whose sum is not the one in `sums`; -1: all are right.
  int64_t first_damaged_chunk() const;
};

// This rank's parts of the entries, contiguous, in the layout's order.
std::vector<Tensor> slices_of(const std::vector<Entry>& entries, const CopyLayout& layout);

// Both ways at once, either of which may have no elements: `out` to one rank, `in` from another; in
// messages of bounded size, a few at a time.
void exchange_bytes(comm::ProcessGroup& group, const Tensor& out, int to, const Tensor& in,
                    int from);

// Where the bytes of copies go: into the entries' tensors, wherever they overlap with a copy's
// parts.
class CopyReader {
 public:
  explicit CopyReader(const std::vector<Entry>& entries);
  // Bytes [begin, begin + bytes) of a copy, which were found right; whole elements.
  void take(const CopyLayout& layout, int64_t begin, const void* data, int64_t bytes);
  // To be called last, for tensors that are no plain memory of the host.
  void finish();

 private:
  struct Target {
    Tensor tensor, host;  // host: contiguous; the tensor itself where that is possible
    ShardSpec shard;
  };
  std::unordered_map<std::string, Target> targets_;
};

// A copy from one rank's memory into another's tensors, piece by piece. The receiver gives the
// first chunk whose sum was wrong, -1: none; values of chunks from there on were not taken.
void send_copy(comm::ProcessGroup& group, const StateCopy& copy, int to);
int64_t receive_copy(comm::ProcessGroup& group, const CopyLayout& layout, int from,
                     CopyReader& reader);

}  // namespace lockstep::checkpoint
