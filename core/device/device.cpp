#include "core/device/device.h"

#include <ostream>

#include "core/base/error.h"
#include "core/device/allocator.h"
#include "core/device/cpu/allocator.h"
#include "core/device/cpu/table.h"
#include "core/device/cuda_device.h"
#include "core/device/kernels.h"

namespace lockstep {
namespace {
void check_index(Device device) {
  check(device.index == 0, "[device] there is one CPU device, cpu; got ", device);
}
}  // namespace

std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.type == DeviceType::cpu && device.index == 0) return out << "cpu";
  return out << (device.type == DeviceType::cpu ? "cpu:" : "cuda:") << device.index;
}

bool is_available(Device device) {
  return device.type == DeviceType::cpu ? device.index == 0 : cuda::is_available(device.index);
}

void Stream::synchronize() const {
  if (device_.type == DeviceType::cuda) cuda::synchronize(*this);
}

Stream current_stream(Device device) {
  if (device.type == DeviceType::cuda) return cuda::current_stream(device.index);
  check_index(device);
  return Stream(device);
}

Allocator& allocator(Device device) {
  if (device.type == DeviceType::cuda) return cuda::allocator(device.index);
  check_index(device);
  return cpu::host_allocator();
}

const Kernels& kernels(Device device) {
  if (device.type == DeviceType::cuda) return cuda::kernels();
  check_index(device);
  return cpu::kernel_table();
}

}  // namespace lockstep
