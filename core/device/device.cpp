#include "core/device/device.h"

#include <ostream>
#include <utility>

#include "core/base/error.h"
#include "core/device/allocator.h"
#include "core/device/cpu/allocator.h"
#include "core/device/cpu/table.h"
#include "core/device/cuda_device.h"
#include "core/device/kernels.h"
#include "core/device/traced_kernels.h"
#include "core/trace/trace.h"

namespace lockstep {
namespace {
thread_local Device t_device;

void check_index(Device device) {
  check(device.index == 0, "[device] there is one CPU device, cpu; got ", device);
}
}  // namespace

std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.type == DeviceType::cpu && device.index == 0) return out << "cpu";
  return out << (device.type == DeviceType::cpu ? "cpu:" : "cuda:") << device.index;
}

bool is_available(Device device) {
  return device.index >= 0 && device.index < device_count(device.type);
}

int device_count(DeviceType type) { return type == DeviceType::cpu ? 1 : cuda::device_count(); }

DeviceScope::DeviceScope(Device device) : previous_(std::exchange(t_device, device)) {}
DeviceScope::~DeviceScope() { t_device = previous_; }
Device DeviceScope::current() { return t_device; }

Allocator& allocator(Device device) {
  if (device.type == DeviceType::cuda) return cuda::allocator(device.index);
  check_index(device);
  return cpu::host_allocator();
}

Allocator& pinned_allocator(Device device) {
  return device.type == DeviceType::cuda ? cuda::pinned_allocator() : allocator(device);
}

const Kernels& kernels(Device device) {
  if (trace::on()) [[unlikely]]
    return traced_kernels();
  return untraced_kernels(device);
}

const Kernels& untraced_kernels(Device device) {
  if (device.type == DeviceType::cuda) return cuda::kernel_table();
  check_index(device);
  return cpu::kernel_table();
}

}  // namespace lockstep
