// Where a MemoryPlan comes from: the bound that docs/fsdp.md states, from layouts and schedule alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fsdp/fully_shard.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

// `assignment`: of the rank whose share is asked for. `by_round`: gradients are summed in shards (Accumulate::in_shards).
MemoryPlan plan_memory(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh, const Assignment& assignment,
                       const Options& options);

}  // namespace lockstep::fsdp
