// Makes sure that all ranks shard the same model.
#pragma once

#include "comm/process_group.h"
#include "core/nn/module.h"

namespace lockstep::fsdp {

// Compares names, shapes, dtypes and order over all ranks. Where they differ every rank throws
// UsageError, which names the first differing entry and both ranks.
void check_same_model(const nn::Module& module, comm::ProcessGroup& group);

}  // namespace lockstep::fsdp
