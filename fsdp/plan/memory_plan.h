// Computes a MemoryPlan: the bound that docs/fsdp.md states, from the layouts and the schedule
// only.
#pragma once

#include "fsdp/fully_shard.h"
#include "fsdp/mesh.h"

namespace lockstep::fsdp {

// No communication. The module is not changed and may have been built without memory. `place`,
// `assignment`: of the rank whose memory is planned.
MemoryPlan plan_memory(nn::Module& module, const Place& place, const Assignment& assignment,
                       const Options& options);

}  // namespace lockstep::fsdp
