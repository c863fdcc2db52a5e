// DeviceCopies: copies of tensors between devices and host memory that run beside the devices'
// other work, on a queue of their own.
#pragma once

#include <vector>

#include "core/device/queue.h"
#include "core/tensor/tensor.h"

namespace lockstep {

// Host memory of a tensor's shape and dtype: pinned where the tensor is on a device. Undefined
// contents.
Tensor host_memory_like(const Tensor& tensor);

// Used by one thread at a time.
class DeviceCopies {
 public:
  // Starts to.copy_later(from), where the host's side is from host_memory_like(). The copy sees all
  // that was queued before on the device's current queue, and what is queued there later starts
  // after the copy. So the device may change `from`, and read `to`, at once. The host waits first.
  // Where none is on a device, or a side is not dense, this is to.copy_(from).
  void start(const Tensor& to, const Tensor& from);
  // Blocks the host until all copies are done. Throws EnvironmentError if a device fails.
  void wait();

 private:
  const Queue& queue_of(Device device);

  std::vector<Queue> queues_;   // one of each device
  std::vector<Event> running_;  // the last copy of each queue, as in queues_
};

}  // namespace lockstep
