// Copies tensors to host memory with all threads. Training waits for this while a state is
// copied.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// Copies from[i] to to[i]. Both are contiguous and of the same size; to[i] is on the host. Threads
// share the pieces evenly.
void copy_to_host(const std::vector<Tensor>& from, const std::vector<Tensor>& to);

}  // namespace lockstep::checkpoint
