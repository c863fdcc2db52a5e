// Devices and what each provides: memory, queues of work, and kernels. Code above core/device
// reaches memory and kernels only through these. Nothing outside core/device/cpu assumes that data
// is at a host address.
#pragma once

#include <cstdint>
#include <iosfwd>

namespace lockstep {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

// "cpu", "cuda:0".
std::ostream& operator<<(std::ostream& out, Device device);

// Whether this build and machine can use the device.
bool is_available(Device device);
// Number of devices of a type that this process can use. A CPU counts as one.
int device_count(DeviceType type);

// While it lives, what this thread makes without naming a device is on `device`: parameters and
// buffers of modules. Scopes nest; the CPU outside of any. Tensor's own functions name a device.
class DeviceScope {
 public:
  explicit DeviceScope(Device device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  static Device current();

 private:
  Device previous_;
};

}  // namespace lockstep
