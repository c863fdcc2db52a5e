// The backend for processes on one host, over memory that they share. It needs no copies through
// the kernel, and no system calls while the ranks keep pace. Design: docs/comm.md.
#pragma once

#include <memory>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// Every rank calls this with the same store. The memory has no name in any file system, so nothing
// is left behind, however the ranks end. Throws TimeoutError that names the missing ranks;
// EnvironmentError if ranks are on different hosts or may not open each other's memory.
std::unique_ptr<Backend> make_shm(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options);

}  // namespace lockstep::comm
