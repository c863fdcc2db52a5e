// Gradient clipping by the global norm.
#pragma once

#include <span>

#include "core/autograd/variable.h"

namespace lockstep::optim {

// The 2-norm over all gradients. Squares are summed over fixed blocks and parameters in a fixed tree, in the given order, so the
// bits depend on shapes and values alone. Parameters without a gradient count as 0.
double grad_norm(std::span<const Parameter> parameters);

// What gradients of norm `norm` are to be multiplied by so that it does not exceed `max_norm`; 1 where max_norm is 0 or less (no
// clipping). Not finite where the norm is not: the caller decides about such a step.
float clip_scale(double norm, double max_norm);

}  // namespace lockstep::optim
