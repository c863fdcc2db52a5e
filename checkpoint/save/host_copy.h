// Copies of tensors in host memory, made with all threads: what stalls training while a state is
// put aside.
#pragma once

#include <vector>

#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {

// from[i], contiguous, to to[i] of the same size, from host_memory_like(). On return, tensors of
// the host are copied, by threads that share out pieces evenly. Those of devices are under way:
// call copies.wait() before reading to[i].
void copy_to_host(const std::vector<Tensor>& from, const std::vector<Tensor>& to,
                  DeviceCopies& copies);

}  // namespace lockstep::checkpoint
