// Makes sure that all ranks train the same model, and start from the same values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"

namespace lockstep::ddp {

// Compares names, shapes, dtypes and order over all ranks. Where they differ every rank throws UsageError, which names the
// first differing entry and both ranks.
void check_same_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                      comm::ProcessGroup& group);

// Copies rank 0's values to all ranks.
void broadcast_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                     comm::ProcessGroup& group);

}  // namespace lockstep::ddp
