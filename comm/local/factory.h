// The backend for ranks that are threads of one process: they read and write each other's tensors
// directly.
#pragma once

#include <memory>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// Every rank calls it with the same store, each from a thread of its own. Waits for all of them:
// TimeoutError names the missing.
std::unique_ptr<Backend> make_local(std::shared_ptr<Store> store, int rank, int size,
                                    const GroupOptions& options);

}  // namespace lockstep::comm
