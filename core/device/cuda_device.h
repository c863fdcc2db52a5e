// What a CUDA device is to provide. This version has none: core/device/no_cuda takes its place, so
// that callers need no #ifdef.
#pragma once

#include "core/device/allocator.h"
#include "core/device/kernels.h"

namespace lockstep::cuda {

bool is_available(int index);
// These throw UsageError when the device is not available.
Allocator& allocator(int index);
const Kernels& kernels();
Stream current_stream(int index);
void synchronize(const Stream& stream);

}  // namespace lockstep::cuda
