#include "core/tensor/device_copies.h"

#include <algorithm>
#include <exception>

namespace lockstep {

Tensor host_memory_like(const Tensor& tensor) {
  return tensor.device() == kCpu ? Tensor::empty(tensor.shape(), tensor.dtype())
                                 : Tensor::pinned(tensor.shape(), tensor.dtype(), tensor.device());
}

const Queue& DeviceCopies::queue_of(Device device) {
  for (const Queue& queue : queues_)
    if (queue.device() == device) return queue;
  queues_.push_back(Queue::create(device));
  running_.emplace_back();
  return queues_.back();
}

void DeviceCopies::start(const Tensor& to, const Tensor& from) {
  const Device device = from.device() == kCpu ? to.device() : from.device();
  if (device == kCpu || !from.is_contiguous() || !to.is_contiguous()) {
    to.copy_(from);
    return;
  }
  const Queue& queue = queue_of(device);
  const Queue work = current_queue(device);
  Event::record(work).wait(queue);
  const QueueScope scope(queue);
  const Event copied = to.copy_later(from);
  copied.wait(work);
  running_[static_cast<size_t>(&queue - queues_.data())] = copied;
}

void DeviceCopies::wait() {
  std::exception_ptr failure;
  for (Event& event : running_) {
    try {
      event.synchronize();
    } catch (...) {
      failure = std::current_exception();
    }
    event = {};
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace lockstep
