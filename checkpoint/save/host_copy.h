// Copies of tensors in host memory, made with all threads: what stalls training while a state is
// put aside.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// from[i], contiguous, to to[i], contiguous on the host, of the same size; in pieces that threads
// share out evenly.
void copy_to_host(const std::vector<Tensor>& from, const std::vector<Tensor>& to);

}  // namespace lockstep::checkpoint
