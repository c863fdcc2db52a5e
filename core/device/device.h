// Devices and what each provides: memory, a stream of work, and kernels. Code above core/device
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

// An order of work on a device. On a CPU, work is done when its call returns, so synchronize() does
// nothing.
class Stream {
 public:
  explicit Stream(Device device, void* native = nullptr) : device_(device), native_(native) {}
  Device device() const { return device_; }
  void* native() const { return native_; }  // cudaStream_t on CUDA
  // Blocks the host until all work submitted so far is done.
  void synchronize() const;

 private:
  Device device_;
  void* native_;
};

// The stream on which this thread's kernels run.
Stream current_stream(Device device);

}  // namespace lockstep
