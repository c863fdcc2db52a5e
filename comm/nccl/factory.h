// The backend for tensors on CUDA devices through NCCL. Each rank needs a card of its own. In
// builds without NCCL the functions say so.
#pragma once

#include <memory>
#include <string>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// "2.28.9". Throws EnvironmentError if NCCL cannot be used here; the message says what is missing.
std::string nccl_version();

// Why these ranks cannot use NCCL: the same text on all of them. Empty: they can. Collective over
// `host`, a group of the CPU. `device` is this rank's.
std::string why_no_nccl(ProcessGroup& host, Device device);

// `inner` has formed, its device is the CPU, and its ranks are those of the new backend. The new
// backend uses it to compare calls and to see deaths and aborts. Comes on all ranks. Throws
// EnvironmentError if NCCL fails, and as inner's calls do.
std::unique_ptr<Backend> make_nccl(std::unique_ptr<Backend> inner, Device device,
                                   const GroupOptions& options);

}  // namespace lockstep::comm
