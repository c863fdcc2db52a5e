// The native side of a queue, for what launches work on it.
#pragma once

#include "core/device/queue.h"

namespace lockstep::cuda {

// The native stream of a queue, with its device made current for this thread.
void* stream_of(const Queue& queue);
// Throws EnvironmentError if the last launch of this thread failed.
void check_launch(const char* kernel);

}  // namespace lockstep::cuda
