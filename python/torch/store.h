// comm::Store over the store of torch.distributed (TCPStore, FileStore, HashStore).
#pragma once

#include <memory>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "comm/store.h"

namespace lockstep::pytorch {

// Thread-safe if `store` is. Waits ask again and again instead of blocking in `store`: a blocked
// TCPStore would hold up the other threads of this process that use it.
std::shared_ptr<comm::Store> over(c10::intrusive_ptr<c10d::Store> store);

}  // namespace lockstep::pytorch
