// What `lockstep bench comm` measures: collectives beside copies of the same size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

struct CommBenchmark {
  std::string op;
  bool allocated = false;  // tensors from ProcessGroup::allocate(), else ordinary memory
  int64_t bytes = 0;  // of the whole tensor: [n] of all_reduce and broadcast, [W·n] of the others
  double us = 0;  // of one call, see call_us() in train/bench/measure.h; the writing of the inputs
                  // (below) is not counted
  // Bytes that each rank's link would have to carry: 2(W−1)/W of all_reduce, (W−1)/W of.
  double bus_gb_per_s = 0;
  // all_gather and reduce_scatter, all of broadcast
  double memcpy_us = 0;  // of a copy of the whole tensor by every rank at once, in ordinary memory
  double of_memcpy = 0;  // memcpy_us / us: 1 is as fast as that copy
};

// f32, out of place where there are two tensors. Whoever gives data writes it before every call, as
// a training step does: otherwise the others would find it in their own caches. Collective; the
// figures are equal on all ranks.
std::vector<CommBenchmark> bench_comm(comm::ProcessGroup& group,
                                      const std::vector<int64_t>& sizes_bytes);

}  // namespace lockstep::train
