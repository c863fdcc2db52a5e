// The CPU's allocator.
#pragma once

#include "core/device/allocator.h"

namespace lockstep::cpu {

// One for the process. It is never destroyed, because tensors with static lifetime may outlive
// main.
Allocator& host_allocator();

}  // namespace lockstep::cpu
