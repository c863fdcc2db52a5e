// Device memory with accounting. Freed blocks are cached: a training step asks for the same sizes
// again, and new pages from the system would fault each time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/device/device.h"

namespace lockstep {

class Queue;

// What memory is used for. The accounting is per category. A MemoryScope sets the category for a
// region of code. `offloaded` is memory in files, which the system can reclaim when it needs to: it
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

// While the object lives, allocations of this thread count as `category`. Outside any scope the
// category is `activations`.
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
  std::array<int64_t, kMemoryCategories> used_bytes{};  // current bytes, by category
  std::array<int64_t, kMemoryCategories> peak_bytes{};  // each category's own peak
  int64_t total_used_bytes = 0;
  int64_t total_peak_bytes = 0;  // peak of the sum, not sum of the peaks
  int64_t reserved_bytes = 0;    // taken from the system, cached blocks included
  // The part of the used bytes that is memory of others (count_external).
  int64_t external_bytes = 0;
  // Limit for reserved and external bytes together. 0: none.
  int64_t limit_bytes = 0;
};

// Thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;
  // Returns memory aligned to 64 bytes or more, with undefined contents, for use on the device's
  // current queue. Throws EnvironmentError if the device
  // has no memory left or the limit is reached. The message tells the request and the use by
  // category.
  virtual void* allocate(size_t bytes, MemoryCategory category) = 0;
  // Work that is queued may still use the memory: it is used again in the order of the queue that
  // was current at allocate(). Arguments as at allocate().
  virtual void deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept = 0;
  // Work of another queue uses the memory, too. After deallocate() it is used again only when what
  // is queued there by then is done. Nothing to do for a CPU's queue.
  virtual void used_on(void* pointer, const Queue& queue) = 0;
  virtual MemoryStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual void release_cached() = 0;
  // Counts memory that tensors use but others own (shared memory, mapped files), in its category
  // and against the limit. A negative number releases it. Throws as allocate() does.
  virtual void count_external(int64_t bytes, MemoryCategory category) = 0;
  // Sets the most bytes that this process may hold, free blocks included. An allocation beyond the
  // limit first returns the free blocks, then fails. 0: no limit.
  virtual void set_limit(int64_t bytes) = 0;
};

Allocator& allocator(Device device);
// Of host memory that the device reads and writes without a copy in between. The CPU's allocator
// for a CPU.
Allocator& pinned_allocator(Device device);

// Ends messages about memory that is not there.
inline constexpr std::string_view kMemoryAdvice =
    "Use more ranks with parallel.strategy fsdp, train.recompute, or a smaller train.micro_batch "
    "or "
    "model";

}  // namespace lockstep
