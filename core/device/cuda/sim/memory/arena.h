// A range of addresses from which memory is handed out. An allocation ends just before a page that
// nobody may touch, and addresses are used again as late as possible: accesses beyond the end, and
// after free, fault.
//
// Not thread-safe: the runtime's lock guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

namespace lockstep::cuda::sim {

// Large allocations lie on such pages where the system has them. They make page protection cheap.
inline constexpr size_t kHugePage = size_t{2} << 20;

struct Allocation {
  char* data = nullptr;
  size_t bytes = 0;       // as asked for
  char* pages = nullptr;  // the pages that hold it
  size_t page_bytes = 0;
};

class Arena {
 public:
  // At most `capacity` bytes are in use at a time. Addresses are reserved at the first allocation;
  // `owner` names them in the fault handler's messages (faults.h).
  Arena(size_t capacity, int owner) : capacity_(capacity), owner_(owner) {}

  // The pages cannot be touched yet. Nothing if that is more memory than is left. Throws
  // EnvironmentError if the process has too few addresses. `bytes` is above 0.
  std::optional<Allocation> allocate(size_t bytes);
  // Ends an allocation and closes its pages.
  void free(const Allocation& allocation);
  // The allocation that the address lies in.
  const Allocation* find(const void* address) const;
  // Whether the address is one of the arena's, allocated or not.
  bool holds(const void* address) const;

  size_t capacity() const { return capacity_; }
  size_t used() const { return used_; }
  const std::map<const char*, Allocation>& allocations() const { return live_; }

 private:
  char* place_for(size_t span, size_t alignment) const;

  size_t capacity_, used_ = 0;
  int owner_;
  char* base_ = nullptr;
  size_t addresses_ = 0;
  char* next_ = nullptr;                    // where the search for a place starts
  std::map<const char*, Allocation> live_;  // by their pages
};

}  // namespace lockstep::cuda::sim
