#include "core/device/cpu/allocator.h"

#include <bit>
#include <cstdlib>
#include <map>
#include <vector>

#include <sys/mman.h>

#include "core/base/error.h"
#include "core/base/mutex.h"

namespace lockstep::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kSmall = size_t{64} << 10;    // smaller blocks come from the C library
constexpr size_t kHugePage = size_t{2} << 20;  // from this size on, blocks start on a huge page

// Capacity of the block for a request. Steps of an eighth of a power of two waste at most 1/8, and
// let similar requests share blocks. Equal requests always get equal capacities.
size_t capacity_for(size_t bytes) {
  if (bytes <= 8 * kAlignment) return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  const size_t rounded = (bytes + step - 1) / step * step;
  const size_t page = rounded >= kSmall ? 4096 : kAlignment;
  return (rounded + page - 1) / page * page;
}

void* map_block(size_t bytes) {
  if (bytes < kHugePage) {
    void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? nullptr : block;
  }
  // Map more than needed and unmap what lies before and after the aligned part.
  const size_t total = bytes + kHugePage;
  void* raw = mmap(nullptr, total, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(raw, aligned - begin);
  if (aligned + bytes < begin + total)
    munmap(reinterpret_cast<void*>(aligned + bytes), begin + total - aligned - bytes);
  void* block = reinterpret_cast<void*>(aligned);
  // Use huge pages where whole ones fit: fewer faults, fewer TLB misses. The rest of the block uses
  // small pages.
  madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return block;
}

void* take_from_system(size_t capacity) {
  return capacity >= kSmall ? map_block(capacity) : std::aligned_alloc(kAlignment, capacity);
}
void return_to_system(void* block, size_t capacity) {
  if (capacity >= kSmall)
    munmap(block, capacity);
  else
    std::free(block);
}

class CachingAllocator final : public Allocator {
 public:
  void* allocate(size_t bytes, MemoryCategory category) override {
    const size_t capacity = capacity_for(bytes > 0 ? bytes : 1);
    const MutexLock lock(mutex_);
    void* block = take_cached(capacity);
    if (!block) {
      if (exceeds_limit(capacity)) drop_cached();
      block = exceeds_limit(capacity) ? nullptr : take_from_system(capacity);
      if (!block) {
        drop_cached();
        block = exceeds_limit(capacity) ? nullptr : take_from_system(capacity);
      }
      if (!block) throw EnvironmentError(no_memory(bytes, category));
      stats_.reserved_bytes += static_cast<int64_t>(capacity);
    }
    account(static_cast<int64_t>(bytes), category);
    return block;
  }

  void deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept override {
    const size_t capacity = capacity_for(bytes > 0 ? bytes : 1);
    const MutexLock lock(mutex_);
    account(-static_cast<int64_t>(bytes), category);
    try {
      cache_[capacity].push_back(pointer);
    } catch (const std::bad_alloc&) {  // no memory to record it: free the block itself
      return_to_system(pointer, capacity);
      stats_.reserved_bytes -= static_cast<int64_t>(capacity);
    }
  }

  MemoryStats stats() const override {
    const MutexLock lock(mutex_);
    return stats_;
  }

  void reset_peak() override {
    const MutexLock lock(mutex_);
    stats_.peak_bytes = stats_.used_bytes;
    stats_.total_peak_bytes = stats_.total_used_bytes;
  }

  void release_cached() override {
    const MutexLock lock(mutex_);
    drop_cached();
  }

  void count_external(int64_t bytes, MemoryCategory category) override {
    const MutexLock lock(mutex_);
    if (category == MemoryCategory::offloaded) return account(bytes, category);
    if (bytes > 0 && exceeds_limit(static_cast<size_t>(bytes))) {
      drop_cached();
      if (exceeds_limit(static_cast<size_t>(bytes)))
        throw EnvironmentError(no_memory(static_cast<size_t>(bytes), category));
    }
    stats_.external_bytes += bytes;
    account(bytes, category);
  }

  void set_limit(int64_t bytes) override {
    const MutexLock lock(mutex_);
    stats_.limit_bytes = bytes;
  }

 private:
  // The last block freed comes first: it is the likeliest to be in the CPU's caches.
  void* take_cached(size_t capacity) LOCKSTEP_REQUIRES(mutex_) {
    const auto found = cache_.find(capacity);
    if (found == cache_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    return block;
  }

  void drop_cached() LOCKSTEP_REQUIRES(mutex_) {
    for (auto& [capacity, blocks] : cache_)
      for (void* block : blocks) {
        return_to_system(block, capacity);
        stats_.reserved_bytes -= static_cast<int64_t>(capacity);
      }
    cache_.clear();
  }

  void account(int64_t bytes, MemoryCategory category) LOCKSTEP_REQUIRES(mutex_) {
    const auto c = static_cast<size_t>(category);
    stats_.used_bytes[c] += bytes;
    stats_.peak_bytes[c] = std::max(stats_.peak_bytes[c], stats_.used_bytes[c]);
    if (category == MemoryCategory::offloaded) return;
    stats_.total_used_bytes += bytes;
    stats_.total_peak_bytes = std::max(stats_.total_peak_bytes, stats_.total_used_bytes);
  }

  bool exceeds_limit(size_t more) const LOCKSTEP_REQUIRES(mutex_) {
    return stats_.limit_bytes > 0 &&
           stats_.reserved_bytes + stats_.external_bytes + static_cast<int64_t>(more) >
               stats_.limit_bytes;
  }

  std::string no_memory(size_t bytes, MemoryCategory category) const LOCKSTEP_REQUIRES(mutex_) {
    std::string used;
    for (size_t c = 0; c < kMemoryCategories; ++c)
      if (stats_.used_bytes[c] > 0)
        used += str(used.empty() ? "" : ", ", name_of(static_cast<MemoryCategory>(c)), " ",
                    stats_.used_bytes[c]);
    const std::string limit =
        stats_.limit_bytes > 0 ? str(" of a limit of ", stats_.limit_bytes) : "";
    return str("[cpu] out of memory: ", bytes, " bytes more for ", name_of(category),
               "; tensors use ", stats_.total_used_bytes, " bytes", limit, " (", used,
               "). Use more ranks with parallel.strategy fsdp, train.recompute, or a smaller "
               "train.micro_batch or model");
  }

  mutable Mutex mutex_;
  // Free blocks by capacity.
  std::map<size_t, std::vector<void*>> cache_ LOCKSTEP_GUARDED_BY(mutex_);
  MemoryStats stats_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace

Allocator& host_allocator() {
  static auto* allocator = new CachingAllocator;
  return *allocator;
}

}  // namespace lockstep::cpu
