// The memory of the simulated devices, and pinned memory of the host.
//
// Not thread-safe: the runtime's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/device/cuda/sim/memory/arena.h"
#include "core/device/cuda/sim/memory/protection.h"
#include "core/device/cuda/sim/settings.h"

namespace lockstep::cuda::sim {

enum class Place : uint8_t { host, pinned, device };

// Where a pointer points.
struct Target {
  Place place = Place::host;
  int device = -1;
  // Whether the bytes from the pointer on lie in one allocation. Always true for the host.
  bool inside = true;
};

class Memory {
 public:
  explicit Memory(const Settings& settings);

  // Fresh memory is full of 0xFF: NaN, and -1. Returns nullptr if there is not that much.
  void* allocate(int device, size_t bytes);
  void* allocate_pinned(size_t bytes);
  // Returns false unless the pointer begins an allocation of that kind.
  bool free(void* pointer);
  bool free_pinned(void* pointer);

  // The device on which an allocation begins at the pointer, or -1.
  int device_of(void* pointer) const;
  Target look_up(const void* pointer, size_t bytes) const;
  size_t capacity() const { return pinned_.capacity(); }
  size_t used(int device) const { return devices_[static_cast<size_t>(device)].arena.used(); }

  // The calling thread executes queued work and may touch the device's memory, until close_all().
  // With page protection every thread may.
  void open(int device);
  void open_all();
  void close_all();

 private:
  struct Device {
    Arena arena;
    bool open = false;
  };
  void set_open(Device& device, bool open) const;

  PageGuard guard_;
  std::vector<Device> devices_;
  Arena pinned_;
};

}  // namespace lockstep::cuda::sim
