// A block of device memory, shared by the tensors that view it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/device/allocator.h"
#include "core/device/device.h"

namespace lockstep {

class Storage {
 public:
  // From the device's allocator, in the current MemoryScope's category.
  Storage(size_t bytes, Device device);
  // Memory that somebody else owns (a mapped file, shared memory), counted in the current
  // MemoryScope's category; `release` runs when the last tensor lets go, or when the allocator's
  // limit does not allow it.
  Storage(void* data, size_t bytes, Device device, std::function<void()> release);
  // Memory that comes and goes (FSDP's gathered parameters). While it is away, tensors that view it
  // keep their shapes, and reading their values throws UsageError with `why_absent`. `bring`, where
  // there is one, runs first: it may attach the memory. It must not take other memory away, since
  // whoever reads may look at that as well.
  static std::shared_ptr<Storage> absent(size_t bytes, Device device, std::string why_absent,
                                         std::function<void()> bring = {});
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  // Brings absent memory: bytes() of `memory` from `offset` on, which is kept alive until detach().
  void attach(std::shared_ptr<Storage> memory, size_t offset = 0);
  // The same until the next change that counts here (version()): from then on it is away again.
  void attach_until_changed(std::shared_ptr<Storage> memory, size_t offset = 0);
  void detach();
  bool present() const {
    return (data_ != nullptr && (!until_changed_ || version() == attached_version_)) || bytes_ == 0;
  }
  const std::string& why_absent() const { return why_absent_; }
  // For those who are about to read: brings absent memory where that is possible. Returns
  // present().
  bool bring() const;
  // From here on the memory stays away, for another reason.
  void retire(std::string why_absent);

  void* data() const { return data_; }  // null while it is away
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // How often the values in this memory were changed in place. Who keeps a tensor for later
  // compares versions to find out whether it still holds what it held
  // (core/autograd/saved_tensor.h). Thread-safe, like changed() and changed_by().
  uint64_t version() const {
    return changes_.load(std::memory_order_relaxed) + (origin_ ? origin_->version() : 0);
  }
  // Counts one change. `by` names who made it, for messages: a string literal, "copy_". Bringing
  // the same values again (attach) is no change.
  void changed(const char* by);
  // Who made the last change; "unknown" before the first.
  const char* changed_by() const;
  // The values here are copies of those in `origin` (FSDP: of the rank's slice): a change there
  // counts here, too.
  void follow(std::shared_ptr<Storage> origin);

 private:
  void* data_;
  size_t bytes_;
  Device device_;
  MemoryCategory category_;
  std::function<void()> release_;  // empty for the allocator's memory
  std::shared_ptr<Storage> attached_;
  bool until_changed_ = false;
  uint64_t attached_version_ = 0;
  std::string why_absent_;       // empty: the memory is here for good
  std::function<void()> bring_;  // of absent memory; may be empty
  std::atomic<uint64_t> changes_{0};
  std::atomic<const char*> changed_by_{nullptr};
  std::shared_ptr<Storage> origin_;
};

// While it lives, new tensors of this thread on the CPU take their memory from `make(bytes)` rather
// than from the allocator: for states that shall lie elsewhere (a file), whoever creates them.
// Scopes nest.
class StorageScope {
 public:
  using Make = std::function<std::shared_ptr<Storage>(size_t bytes)>;
  explicit StorageScope(Make make);
  ~StorageScope();
  StorageScope(const StorageScope&) = delete;
  StorageScope& operator=(const StorageScope&) = delete;

  // From the innermost scope, or the allocator's.
  static std::shared_ptr<Storage> create(size_t bytes, Device device);

 private:
  Make make_;
  StorageScope* outer_;
};

}  // namespace lockstep
