#include "core/tensor/storage.h"

#include <utility>

#include "core/base/error.h"

namespace lockstep {

Storage::Storage(size_t bytes, Device device) : Storage(bytes, device, allocator(device)) {}

Storage::Storage(size_t bytes, Device device, Allocator& memory)
    : data_(nullptr),
      bytes_(bytes),
      device_(device),
      category_(MemoryScope::current()),
      memory_(&memory) {
  if (bytes_ > 0) data_ = memory_->allocate(bytes_, category_);
}

std::shared_ptr<Storage> Storage::pinned(size_t bytes, Device device) {
  const std::shared_ptr<Storage> storage(new Storage(bytes, kCpu, pinned_allocator(device)));
  storage->pinned_ = device.type != DeviceType::cpu;
  return storage;
}

void Storage::used_on(const Queue& queue) const {
  if (attached_) return attached_->used_on(queue);
  if (memory_ && data_) memory_->used_on(data_, queue);
}

Storage::Storage(void* data, size_t bytes, Device device, std::function<void()> release)
    : data_(data),
      bytes_(bytes),
      device_(device),
      category_(MemoryScope::current()),
      release_(std::move(release)) {
  if (!release_) return;
  try {
    allocator(device_).count_external(static_cast<int64_t>(bytes_), category_);
  } catch (...) {
    release_();
    throw;
  }
}

std::shared_ptr<Storage> Storage::absent(size_t bytes, Device device, std::string why_absent,
                                         std::function<void()> bring) {
  check(!why_absent.empty(), "[storage] absent memory needs a reason to give to those who read it");
  auto storage = std::make_shared<Storage>(nullptr, bytes, device, nullptr);
  storage->why_absent_ = std::move(why_absent);
  storage->bring_ = std::move(bring);
  return storage;
}

bool Storage::bring() const {
  if (!present() && bring_) bring_();
  return present();
}

void Storage::retire(std::string why_absent) {
  detach();
  why_absent_ = std::move(why_absent);
  bring_ = {};
}

void Storage::attach(std::shared_ptr<Storage> memory, size_t offset) {
  check(!why_absent_.empty(), "[storage] only memory that was made absent can be attached");
  check(memory && memory.get() != this && memory->present() && memory->device() == device_ &&
            offset <= memory->bytes() && bytes_ <= memory->bytes() - offset,
        "[storage] cannot attach ", bytes_, " bytes at offset ", offset, " of ",
        memory ? memory->bytes() : 0, " bytes");
  data_ = static_cast<std::byte*>(memory->data()) + offset;
  attached_ = std::move(memory);
  until_changed_ = false;
}

void Storage::attach_until_changed(std::shared_ptr<Storage> memory, size_t offset) {
  attach(std::move(memory), offset);
  until_changed_ = true;
  attached_version_ = version();
}

void Storage::detach() {
  check(!why_absent_.empty(), "[storage] only memory that was made absent can be detached");
  data_ = nullptr;
  attached_.reset();
}

void Storage::changed(const char* by) {
  changes_.fetch_add(1, std::memory_order_relaxed);
  changed_by_.store(by, std::memory_order_relaxed);
}

const char* Storage::changed_by() const {
  const char* here = changed_by_.load(std::memory_order_relaxed);
  if (here) return here;
  return origin_ ? origin_->changed_by() : "unknown";
}

void Storage::follow(std::shared_ptr<Storage> origin) {
  for (const Storage* at = origin.get(); at; at = at->origin_.get())
    check(at != this, "[storage] memory cannot follow itself");
  origin_ = std::move(origin);
}

Storage::~Storage() {
  if (!why_absent_.empty()) return;
  if (release_) {
    allocator(device_).count_external(-static_cast<int64_t>(bytes_), category_);
    release_();
  } else if (memory_ && data_) {
    memory_->deallocate(data_, bytes_, category_);
  }
}

namespace {
thread_local StorageScope* t_scope = nullptr;
}

StorageScope::StorageScope(Make make)
    : make_(std::move(make)), outer_(std::exchange(t_scope, this)) {}
StorageScope::~StorageScope() { t_scope = outer_; }

std::shared_ptr<Storage> StorageScope::create(size_t bytes, Device device) {
  if (t_scope && bytes > 0 && device.type == DeviceType::cpu) return t_scope->make_(bytes);
  return std::make_shared<Storage>(bytes, device);
}

}  // namespace lockstep
