// A block of device memory, shared by the tensors that view it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/device/allocator.h"
#include "core/device/queue.h"

namespace lockstep {

class Storage {
 public:
  // Memory from the device's allocator, in the category of the current MemoryScope.
  Storage(size_t bytes, Device device);
  // Host memory that `device` reads and writes without a copy in between (pinned). Ordinary memory
  // if `device` is a CPU.
  static std::shared_ptr<Storage> pinned(size_t bytes, Device device);
  // Memory that another component owns (a mapped file, shared memory), counted in the category of
  // the current MemoryScope. `release` runs when the last tensor lets go, or if the allocator's
  // limit does not allow the memory.
  Storage(void* data, size_t bytes, Device device, std::function<void()> release);
  // Memory that comes and goes (FSDP's gathered parameters). While it is away, tensors that view it
  // keep their shapes, and reading their values throws UsageError with `why_absent`. `bring`, if
  // given, runs first and may attach the memory. It must not take other memory away, because the
  // reader may look at that too.
  static std::shared_ptr<Storage> absent(size_t bytes, Device device, std::string why_absent,
                                         std::function<void()> bring = {});
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  // Brings absent memory: bytes() of `memory` from `offset` on. Keeps `memory` alive until
  // detach().
  void attach(std::shared_ptr<Storage> memory, size_t offset = 0);
  // As attach(), until the next change that counts here (version()). The memory is then away again.
  void attach_until_changed(std::shared_ptr<Storage> memory, size_t offset = 0);
  void detach();
  bool present() const {
    return (data_ != nullptr && (!until_changed_ || version() == attached_version_)) || bytes_ == 0;
  }
  const std::string& why_absent() const { return why_absent_; }
  // Call before reading. Brings absent memory if possible. Returns present().
  bool bring() const;
  // The memory stays away from here on, for another reason.
  void retire(std::string why_absent);

  void* data() const { return data_; }  // null while the memory is away
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool is_pinned() const { return pinned_; }
  // Work that is queued on `queue` by the time the memory is let go may still use it. Call it
  // wherever memory is used on another queue than the one that was current when it was made.
  // Memory of others is not kept for it.
  void used_on(const Queue& queue) const;

  // How often the values in this memory were changed in place. A holder of a tensor compares
  // versions to learn whether the tensor still holds the same values
  // (core/autograd/saved_tensor.h). Thread-safe, like changed() and changed_by().
  uint64_t version() const {
    return changes_.load(std::memory_order_relaxed) + (origin_ ? origin_->version() : 0);
  }
  // Counts one change. `by` names the caller in messages; it must be a string literal, such as
  // "copy_". attach() of the same values is not a change.
  void changed(const char* by);
  // Who made the last change. "unknown" before the first.
  const char* changed_by() const;
  // The values here are copies of those in `origin` (FSDP: of the rank's slice). From here on, a
  // change there counts here too.
  void follow(std::shared_ptr<Storage> origin);

 private:
  Storage(size_t bytes, Device device, Allocator& memory);

  void* data_;
  size_t bytes_;
  Device device_;
  MemoryCategory category_;
  Allocator* memory_ = nullptr;    // null for memory of others
  std::function<void()> release_;  // of memory of others; may be empty
  bool pinned_ = false;
  std::shared_ptr<Storage> attached_;
  bool until_changed_ = false;
  uint64_t attached_version_ = 0;
  std::string why_absent_;       // empty: the memory is always here
  std::function<void()> bring_;  // of absent memory; may be empty
  std::atomic<uint64_t> changes_{0};
  std::atomic<const char*> changed_by_{nullptr};
  std::shared_ptr<Storage> origin_;
};

// While the object lives, new CPU tensors of this thread get their memory from `make(bytes)`
// instead of the allocator. It puts states elsewhere (into a file) without help of the code that
// creates them. Scopes nest.
class StorageScope {
 public:
  using Make = std::function<std::shared_ptr<Storage>(size_t bytes)>;
  explicit StorageScope(Make make);
  ~StorageScope();
  StorageScope(const StorageScope&) = delete;
  StorageScope& operator=(const StorageScope&) = delete;

  // Memory from the innermost scope, or from the allocator if there is none.
  static std::shared_ptr<Storage> create(size_t bytes, Device device);

 private:
  Make make_;
  StorageScope* outer_;
};

}  // namespace lockstep
