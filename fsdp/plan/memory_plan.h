// Where a MemoryPlan comes from: the bound that docs/fsdp.md states, from layouts and schedule
// alone.
#pragma once

#include "fsdp/fully_shard.h"
#include "fsdp/mesh.h"

namespace lockstep::fsdp {

// No communication, and the module is not changed: it may have been built without memory. `place`,
// `assignment`: of the rank whose share is asked for.
MemoryPlan plan_memory(nn::Module& module, const Place& place, const Assignment& assignment,
                       const Options& options);

}  // namespace lockstep::fsdp
