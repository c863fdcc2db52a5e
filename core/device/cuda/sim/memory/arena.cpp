#include "core/device/cuda/sim/memory/arena.h"

#include <algorithm>
#include <iterator>

#include "core/base/error.h"
#include "core/device/cuda/sim/faults.h"
#include "core/device/cuda/sim/memory/protection.h"

namespace lockstep::cuda::sim {
namespace {

constexpr size_t kAlignment = 256;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

std::optional<Allocation> Arena::allocate(size_t bytes) {
  if (bytes > capacity_ - used_) return std::nullopt;
  const size_t rounded = round_up(bytes, kAlignment);
  if (rounded > capacity_ - used_) return std::nullopt;
  if (!base_) {
    addresses_ = round_up(4 * capacity_, page_size()) + (size_t{1} << 30);
    char* reserved = reserve_addresses(addresses_ + kHugePage);
    if (!reserved)
      throw EnvironmentError(str("[simulated GPU] cannot reserve ", addresses_,
                                 " bytes of addresses; lower LOCKSTEP_SIM_MEMORY_MB"));
    base_ = next_ = reserved + (-reinterpret_cast<uintptr_t>(reserved) & (kHugePage - 1));
    watch_range(base_, addresses_, owner_);
  }
  const size_t page_bytes = round_up(rounded, page_size());
  char* pages = place_for(page_bytes + page_size(), page_bytes < kHugePage ? 1 : kHugePage);
  if (!pages) return std::nullopt;
  next_ = pages + page_bytes + page_size();
  used_ += rounded;
  const Allocation allocation{pages + page_bytes - rounded, bytes, pages, page_bytes};
  live_.emplace(pages, allocation);
  return allocation;
}

// The first gap at or after next_, else the first one of all.
char* Arena::place_for(size_t span, size_t alignment) const {
  // Offsets from base_, which is aligned to huge pages.
  const auto aligned = [&](const char* at) {
    return round_up(static_cast<size_t>(at - base_), alignment);
  };
  for (const char* from : {next_, base_}) {
    size_t at = aligned(from);
    for (auto it = live_.lower_bound(from); it != live_.end(); ++it) {
      if (at + span <= static_cast<size_t>(it->first - base_)) return base_ + at;
      at = aligned(it->second.pages + it->second.page_bytes + page_size());
    }
    if (at + span <= addresses_) return base_ + at;
  }
  return nullptr;
}

void Arena::free(const Allocation& allocation) {
  used_ -= round_up(allocation.bytes, kAlignment);
  close_pages(allocation.pages, allocation.page_bytes);
  live_.erase(allocation.pages);
}

const Allocation* Arena::find(const void* address) const {
  const char* at = static_cast<const char*>(address);
  auto it = live_.upper_bound(at);
  if (it == live_.begin()) return nullptr;
  const Allocation& found = std::prev(it)->second;
  return at >= found.data && at < found.data + found.bytes ? &found : nullptr;
}

bool Arena::holds(const void* address) const {
  const char* at = static_cast<const char*>(address);
  return base_ && at >= base_ && at < base_ + addresses_;
}

}  // namespace lockstep::cuda::sim
