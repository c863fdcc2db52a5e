// The backend for ranks that are threads of one process: they read and write each other's tensors
// directly.
#pragma once

#include <memory>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// Every rank calls this with the same store, each from its own thread. Waits for all ranks; a
// TimeoutError names the missing ones.
std::unique_ptr<Backend> make_local(std::shared_ptr<Store> store, int rank, int size,
                                    const GroupOptions& options);

}  // namespace lockstep::comm
