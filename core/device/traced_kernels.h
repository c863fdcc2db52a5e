// Kernel tables that record each call in the timeline (core/trace/trace.h). kernels() returns them
// while the recorder is on.
#pragma once

#include "core/device/kernels.h"

namespace lockstep {

// The device's own table, in core/device/device.cpp.
const Kernels& untraced_kernels(Device device);

// A table for every device: each entry calls the own table of its queue's device. An event says the
// shapes, the floating-point operations of products and attention, and the bytes of the arrays that
// the kernel reads and writes, each once. On a device with queues an event's time is that of the
// host's call, and `queued` is set.
const Kernels& traced_kernels();

}  // namespace lockstep
