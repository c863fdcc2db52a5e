// Kernels over many tensors, and of a step's numbers, for every instruction set: they call the
// chosen one's kernels tensor by tensor, which costs a CPU nothing.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cpu {

void square_sums_many(const SquareSumsManyArgs& args);
void adamw_many(const AdamWManyArgs& args);
void sgd_many(const SgdManyArgs& args);
void close_step(const CloseStepArgs& args);

}  // namespace lockstep::cpu
