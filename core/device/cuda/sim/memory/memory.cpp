#include "core/device/cuda/sim/memory/memory.h"

#include <cstring>

#include <sys/mman.h>

#include "core/device/cuda/sim/faults.h"

namespace lockstep::cuda::sim {
namespace {

constexpr int kFresh = 0xFF;

// Lets the calling thread touch a new allocation, to fill it.
class Filling {
 public:
  // `open`: whether the device's memory is open, and the allocation stays so.
  Filling(const PageGuard& guard, const Allocation& allocation, bool open)
      : guard_(guard), allocation_(allocation), open_(open) {
    guard_.attach(allocation.pages, allocation.page_bytes);
    guard_.set_open_for_thread(true);
  }
  ~Filling() {
    guard_.set_open_for_thread(false);
    if (!open_) guard_.set_open(allocation_.pages, allocation_.page_bytes, false);
  }
  Filling(const Filling&) = delete;
  Filling& operator=(const Filling&) = delete;

 private:
  const PageGuard& guard_;
  const Allocation& allocation_;
  bool open_;
};

}  // namespace

Memory::Memory(const Settings& settings)
    : guard_(settings.protection), pinned_(static_cast<size_t>(settings.memory), kPinnedOwner) {
  for (int device = 0; device < settings.devices; ++device)
    devices_.push_back({Arena(static_cast<size_t>(settings.memory), device)});
}

void* Memory::allocate(int device, size_t bytes) {
  Device& on = devices_[static_cast<size_t>(device)];
  const auto allocation = on.arena.allocate(bytes);
  if (!allocation) return nullptr;
  if (allocation->page_bytes >= kHugePage)
    madvise(allocation->pages, allocation->page_bytes, MADV_HUGEPAGE);
  const Filling filling(guard_, *allocation, on.open);
  std::memset(allocation->data, kFresh, bytes);
  return allocation->data;
}

void* Memory::allocate_pinned(size_t bytes) {
  const auto allocation = pinned_.allocate(bytes);
  if (!allocation) return nullptr;
  open_pages(allocation->pages, allocation->page_bytes);
  std::memset(allocation->data, kFresh, bytes);
  return allocation->data;
}

bool Memory::free(void* pointer) {
  const int device = device_of(pointer);
  if (device < 0) return false;
  Arena& arena = devices_[static_cast<size_t>(device)].arena;
  const Allocation allocation = *arena.find(pointer);
  arena.free(allocation);
  return true;
}

bool Memory::free_pinned(void* pointer) {
  const Allocation* found = pinned_.find(pointer);
  if (!found || found->data != pointer) return false;
  const Allocation allocation = *found;
  pinned_.free(allocation);
  return true;
}

int Memory::device_of(void* pointer) const {
  for (size_t device = 0; device < devices_.size(); ++device) {
    const Allocation* found = devices_[device].arena.find(pointer);
    if (found && found->data == pointer) return static_cast<int>(device);
  }
  return -1;
}

Target Memory::look_up(const void* pointer, size_t bytes) const {
  const auto inside = [&](const Arena& arena) {
    const Allocation* found = arena.find(pointer);
    return found &&
           found->bytes - static_cast<size_t>(static_cast<const char*>(pointer) - found->data) >=
               bytes;
  };
  if (pinned_.holds(pointer)) return {Place::pinned, -1, inside(pinned_)};
  for (size_t device = 0; device < devices_.size(); ++device)
    if (const Arena& arena = devices_[device].arena; arena.holds(pointer))
      return {Place::device, static_cast<int>(device), inside(arena)};
  return {};
}

void Memory::set_open(Device& device, bool open) const {
  if (device.open == open) return;
  device.open = open;
  if (guard_.protection() == Protection::keys) return;
  for (const auto& [pages, allocation] : device.arena.allocations())
    guard_.set_open(allocation.pages, allocation.page_bytes, open);
}

void Memory::open(int device) {
  guard_.set_open_for_thread(true);
  set_open(devices_[static_cast<size_t>(device)], true);
}

void Memory::open_all() {
  for (size_t device = 0; device < devices_.size(); ++device) open(static_cast<int>(device));
}

void Memory::close_all() {
  for (Device& device : devices_) set_open(device, false);
  guard_.set_open_for_thread(false);
}

}  // namespace lockstep::cuda::sim
