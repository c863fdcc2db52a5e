// A block of device memory, shared by the tensors that view it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "core/device/allocator.h"
#include "core/device/device.h"

namespace lockstep {

class Storage {
 public:
  // From the device's allocator, in the current MemoryScope's category.
  Storage(size_t bytes, Device device);
  // Memory that somebody else owns (a mapped file, shared memory); `release` runs when the last tensor lets go.
  Storage(void* data, size_t bytes, Device device, std::function<void()> release);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_;
  size_t bytes_;
  Device device_;
  MemoryCategory category_;
  std::function<void()> release_;  // empty for the allocator's memory
};

}  // namespace lockstep
