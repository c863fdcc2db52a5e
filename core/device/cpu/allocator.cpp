#include "core/device/cpu/allocator.h"

#include <cstdlib>
#include <string>

#include <sys/mman.h>

#include "core/device/caching_allocator.h"

namespace lockstep::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kSmall = size_t{64} << 10;    // smaller blocks come from malloc()
constexpr size_t kHugePage = size_t{2} << 20;  // from this size on, blocks start on a huge page

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
  // Use huge pages where whole ones fit, for fewer page faults and TLB misses. The rest of the
  // block uses small pages.
  madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return block;
}

class HostMemory final : public MemorySource {
 public:
  std::string name() const override { return "cpu"; }
  size_t capacity_for(size_t bytes) const override {
    return stepped_capacity(bytes, kAlignment, kSmall, 4096);
  }
  void* take(size_t capacity) override {
    return capacity >= kSmall ? map_block(capacity) : std::aligned_alloc(kAlignment, capacity);
  }
  void give_back(void* block, size_t capacity) noexcept override {
    if (capacity >= kSmall)
      munmap(block, capacity);
    else
      std::free(block);
  }
  Queue queue() const override { return Queue(kCpu); }
  std::string advice() const override { return std::string(kMemoryAdvice); }
};

}  // namespace

Allocator& host_allocator() {
  static auto* allocator = new CachingAllocator(*new HostMemory);
  return *allocator;
}

}  // namespace lockstep::cpu
