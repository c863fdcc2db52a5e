#include "core/base/error.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {
[[noreturn]] void absent() {
  throw UsageError("[cuda] this version of lockstep has no CUDA device: use device cpu");
}
}  // namespace

bool is_available(int) { return false; }
Allocator& allocator(int) { absent(); }
const Kernels& kernels() { absent(); }
Stream current_stream(int) { absent(); }
void synchronize(const Stream&) { absent(); }

}  // namespace lockstep::cuda
