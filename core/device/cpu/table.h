// The CPU's kernel table, for the best instruction set that this machine runs.
#pragma once

#include "core/device/kernels.h"

namespace lockstep::cpu {

const Kernels& kernel_table();

}  // namespace lockstep::cpu
