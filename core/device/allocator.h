// Device memory with accounting. Blocks are cached: a training step asks for the same sizes again and again, and returning
// them to the system would cost page faults on each one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/device/device.h"

namespace lockstep {

// What memory is used for; the accounting is per category. Set for a region of code with MemoryScope.
enum class MemoryCategory : uint8_t { parameters, gathered, gradients, optimizer, activations, buffers, other };
inline constexpr int kMemoryCategories = 7;
std::string_view name_of(MemoryCategory category);

// While it lives, allocations of this thread count as `category`. The default outside any scope is `activations`.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryCategory category);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  static MemoryCategory current();

 private:
  MemoryCategory previous_;
};

struct MemoryStats {
  std::array<int64_t, kMemoryCategories> used_bytes{};  // now, by category
  std::array<int64_t, kMemoryCategories> peak_bytes{};  // each category's own peak
  int64_t total_used_bytes = 0;
  int64_t total_peak_bytes = 0;  // peak of the sum, not sum of the peaks
  int64_t reserved_bytes = 0;    // taken from the system, cached blocks included
};

// Thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;
  // 64-byte aligned, contents undefined. Throws EnvironmentError with the sizes when the device has no memory left.
  virtual void* allocate(size_t bytes, MemoryCategory category) = 0;
  virtual void deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept = 0;
  virtual MemoryStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual void release_cached() = 0;
};

Allocator& allocator(Device device);

}  // namespace lockstep
