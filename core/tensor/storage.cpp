#include "core/tensor/storage.h"

namespace lockstep {

Storage::Storage(size_t bytes, Device device) : data_(nullptr), bytes_(bytes), device_(device), category_(MemoryScope::current()) {
  if (bytes_ > 0) data_ = allocator(device_).allocate(bytes_, category_);
}

Storage::Storage(void* data, size_t bytes, Device device, std::function<void()> release)
    : data_(data), bytes_(bytes), device_(device), category_(MemoryCategory::other), release_(std::move(release)) {}

Storage::~Storage() {
  if (release_)
    release_();
  else if (data_)
    allocator(device_).deallocate(data_, bytes_, category_);
}

}  // namespace lockstep
