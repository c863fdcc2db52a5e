// What a rank owns of a sharded model, and how ranks assemble it again.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fsdp/fully_shard.h"
#include "fsdp/mesh.h"
#include "fsdp/reducer.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

struct OwnedSlices {
  std::vector<FullyShardedDataParallel::Slice> all;  // in the order of the model's parameters
  std::vector<Parameter> trained;                    // with the gradients of the reducer
};
OwnedSlices owned_slices(const nn::Module& module, const std::vector<std::unique_ptr<Unit>>& units,
                         const Reducer& reducer);

// Collective over a row: calls use(name, whole) for each parameter, in the order of names. `use`
// may be empty. `whole` is valid until it returns.
void for_each_whole(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh,
                    const std::function<void(const std::string&, const Tensor&)>& use);

}  // namespace lockstep::fsdp
