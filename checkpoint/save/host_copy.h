// Copies tensors to host memory with all threads. Training waits for this while a state is
// copied.
#pragma once

#include <vector>

#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {

// Copies from[i] to to[i]. Both are contiguous and of the same size; to[i] is from
// host_memory_like(). Tensors of the host are copied on return; threads share the pieces evenly.
// Those of devices are under way: call copies.wait() before reading to[i].
void copy_to_host(const std::vector<Tensor>& from, const std::vector<Tensor>& to,
                  DeviceCopies& copies);

}  // namespace lockstep::checkpoint
