// Staging: what the calls of one lane go through on their way between device and host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "comm/engine/backend.h"
#include "core/tensor/storage.h"

namespace lockstep::comm::staged {

// Blocks until the event is done. give_up() runs now and then meanwhile; it throws to end the wait.
void await(const Event& event, const std::function<void()>& give_up);

// Used by one call at a time.
class Staging {
 public:
  explicit Staging(Device device) : device_(device), queue_(Queue::create(device)) {}

  // Runs a call whose tensors are on the device: copies what `inner` needs to pinned memory, runs
  // it there, and copies its results back. On return they are there. The outputs are untouched if
  // inner's call throws. The call's `ready` must be done. Throws what inner throws, and
  // EnvironmentError where the device fails to copy.
  void run(const Call& call, Backend& inner);

 private:
  class Stay;

  // Pinned memory of at least so many bytes. Its contents are undefined.
  std::byte* memory(int64_t bytes);

  const Device device_;
  const Queue queue_;  // of copies
  std::shared_ptr<Storage> memory_;
};

}  // namespace lockstep::comm::staged
