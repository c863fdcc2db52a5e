// Device memory with accounting. Blocks are cached: a training step asks for the same sizes again
// and again, and returning them to the system would cost page faults on each one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/device/device.h"

namespace lockstep {

// What memory is used for; the accounting is per category. Set for a region of code with
// MemoryScope. `offloaded` is memory in files, which the system can take back when it needs to: it
// counts neither in totals nor against a limit.
enum class MemoryCategory : uint8_t {
  parameters,
  gathered,
  gradients,
  optimizer,
  activations,
  buffers,
  other,
  offloaded
};
inline constexpr int kMemoryCategories = 8;
std::string_view name_of(MemoryCategory category);

// While it lives, allocations of this thread count as `category`. The default outside any scope is
// `activations`.
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
  int64_t external_bytes = 0;    // of the used bytes: memory that others own (count_external)
  int64_t limit_bytes = 0;       // of reserved and external bytes together; 0: none
};

// Thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;
  // 64-byte aligned, contents undefined. Throws EnvironmentError when the device has no memory left
  // or the limit is reached: what was asked for, and what is in use by category.
  virtual void* allocate(size_t bytes, MemoryCategory category) = 0;
  virtual void deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept = 0;
  virtual MemoryStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual void release_cached() = 0;
  // Memory that tensors use but others own (shared memory, mapped files): counted in its category,
  // and against the limit; negative when it goes. Throws as allocate() does.
  virtual void count_external(int64_t bytes, MemoryCategory category) = 0;
  // The most bytes that this process may hold, free blocks included: an allocation beyond gives
  // these back first, then fails. 0: no limit.
  virtual void set_limit(int64_t bytes) = 0;
};

Allocator& allocator(Device device);

}  // namespace lockstep
