// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016). A
// part of the forward pass keeps only its inputs, and is computed again when backward reaches it.
#pragma once

#include <functional>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::nn {

// Runs forward(input) and records it as one operation. In backward, `forward` runs again with what
// it saw the first time: the input, the random streams of the RandomScope, and the dtype of the
// PrecisionScope. Gradients are added in the usual order, so all bits equal those of a plain
// forward(input). A parameter's hook runs when backward leaves the part.
//
// What `forward` refers to must outlive backward. `forward` must compute the same again: no side
// effects, and random numbers only from RandomScope. Values that it reads from outside (its input,
// parameters, earlier results, ids, targets, buffers) must be the same in backward. If one was
// changed in place or replaced, backward throws UsageError that names it. Whether a parameter is
// frozen counts as it was in forward. Parts may be nested.
Variable recompute(const Variable& input, std::function<Variable(const Variable&)> forward);

// The same for parts with several inputs and outputs. Some inputs may be undefined. In a backward
// pass the part runs again once, for all outputs that the pass reaches.
using RecomputedAll = std::function<std::vector<Variable>(const std::vector<Variable>&)>;
std::vector<Variable> recompute_all(const std::vector<Variable>& inputs, RecomputedAll forward);

}  // namespace lockstep::nn
