// The backend for tensors on a CUDA device: another backend, of the CPU, with copies of the tensors
// in pinned memory. Ranks may share one device or have one each. The bits are the other backend's.
#pragma once

#include <memory>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// `inner` has formed, and its device is the CPU. Throws UsageError if there is no such device.
std::unique_ptr<Backend> make_staged(std::unique_ptr<Backend> inner, Device device);

}  // namespace lockstep::comm
