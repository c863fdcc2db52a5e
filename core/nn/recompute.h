// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016): a
// part of the forward pass keeps its inputs alone, and is computed again when backward comes to it.
#pragma once

#include <functional>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::nn {

// forward(input), recorded as one operation. In backward `forward` runs once more with what it saw
// the first time – the input, the random streams of the RandomScope, the dtype of the
// PrecisionScope – and gradients are added in the order in which they would have been, so all bits
// are those of a plain forward(input). A parameter's hook runs when backward leaves the part.
//
// What `forward` refers to must outlive backward, and it must compute the same again: no side
// effects, no random numbers but from RandomScope. Values that it reads from outside – its input,
// parameters, what was computed before, ids, targets, buffers – must be the same in backward, which
// throws UsageError and names the value where it was changed in place or replaced. Whether a
// parameter is frozen counts as it was in forward. Parts may be nested.
Variable recompute(const Variable& input, std::function<Variable(const Variable&)> forward);

// The same for parts with several inputs, of which some may be undefined, and several outputs. The
// part runs again once in a backward pass, for all outputs that the pass comes to.
using RecomputedAll = std::function<std::vector<Variable>(const std::vector<Variable>&)>;
std::vector<Variable> recompute_all(const std::vector<Variable>& inputs, RecomputedAll forward);

}  // namespace lockstep::nn
