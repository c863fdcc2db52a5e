// Checks that all ranks train the same model, and makes them start from the same values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"

namespace lockstep::ddp {

// Parameters must have values, be f32 and contiguous, and be listed once each. Buffers must have
// values and be contiguous. All must be on the group's device. If one rank finds a fault, every
// rank throws UsageError.
void check_usable(const std::vector<Parameter>& parameters,
                  const std::vector<std::pair<std::string, Tensor>>& buffers,
                  comm::ProcessGroup& group);

// Compares which parameters are trained. If ranks differ, every rank throws UsageError that names
// the first such parameter and two ranks. `label`: of the collective.
void check_same_freezing(const std::vector<Parameter>& parameters, comm::ProcessGroup& group,
                         uint64_t label);

// Copies rank 0's values to all ranks.
void broadcast_model(const std::vector<Parameter>& parameters,
                     const std::vector<std::pair<std::string, Tensor>>& buffers,
                     comm::ProcessGroup& group);

}  // namespace lockstep::ddp
