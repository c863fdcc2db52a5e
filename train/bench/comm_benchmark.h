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
  // Of the whole tensor: [n] for all_reduce and broadcast, [W·n] for the others.
  int64_t bytes = 0;
  // Time of one call, see call_us() in train/bench/measure.h. Writing the inputs (below) is not
  // counted.
  double us = 0;
  // Rate in bytes that each rank's link must carry: 2(W−1)/W of the tensor for all_reduce, (W−1)/W
  // for all_gather and reduce_scatter, all of it for broadcast.
  double bus_gb_per_s = 0;
  // All ranks copy the whole tensor at once, in ordinary memory.
  double memcpy_us = 0;
  double of_memcpy = 0;  // memcpy_us / us: 1 is as fast as that copy
};

// f32, out of place if there are two tensors. A rank that gives data writes it before every call,
// as a training step does. Otherwise the other ranks would find it in their caches. Collective. All
// ranks get the same figures.
std::vector<CommBenchmark> bench_comm(comm::ProcessGroup& group,
                                      const std::vector<int64_t>& sizes_bytes);

}  // namespace lockstep::train
