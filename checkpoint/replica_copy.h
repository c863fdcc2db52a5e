// One rank's part of a state in one piece of memory, as replicas keep and send it.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save_job.h"

namespace lockstep::checkpoint {

// Where each part of a rank lies. Equal on all ranks that have the same plan.
struct CopyLayout {
  struct Placed {
    Part part;
    int64_t begin = 0;  // in bytes; aligned so that no element lies in two chunks
    int64_t bytes() const { return part.shard.length * size_of(part.dtype); }
  };
  std::vector<Placed> parts;
  int64_t bytes = 0;
  uint64_t digest = 0;  // of whose parts these are, and which
};
CopyLayout lay_out_copy(const Plan& plan, int rank);

struct StateCopy {
  static constexpr int64_t kNothing = -1;

  int64_t step = kNothing;  // what `data` holds, complete and proved
  uint64_t layout = 0;      // its CopyLayout's digest
  Tensor data;              // u8
  Tensor sums;              // i64: XXH3 of each chunk

  bool holds_something() const { return step != kNothing; }
  // Memory for a layout, if it is another one; what was held is gone then.
  void fit(const CopyLayout& layout);
  // Of the data as it is, into `sums`.
  void compute_sums();
  // The first chunk whose sum is not the one in `sums`; -1: all are right.
  int64_t first_damaged_chunk() const;
};

// Views of `data`, one for each part.
std::vector<Tensor> views_of(const StateCopy& copy, const CopyLayout& layout);
// This rank's parts of the entries, contiguous, in the layout's order.
std::vector<Tensor> slices_of(const std::vector<Entry>& entries, const CopyLayout& layout);

// Both ways at once, either of which may have no elements: `out` to one rank, `in` from another; in messages of bounded size, a few at a
// time.
void exchange_bytes(comm::ProcessGroup& group, const Tensor& out, int to, const Tensor& in, int from);

// Where the bytes of copies go: into the entries' tensors, wherever they overlap with a copy's parts.
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

// A copy from one rank's memory into another's tensors, piece by piece. The receiver gives the first chunk whose sum was wrong, -1: none;
// values of chunks from there on were not taken.
void send_copy(comm::ProcessGroup& group, const StateCopy& copy, int to);
int64_t receive_copy(comm::ProcessGroup& group, const CopyLayout& layout, int from, CopyReader& reader);

}  // namespace lockstep::checkpoint
