#include "core/device/queue.h"

#include <utility>

#include "core/device/cuda_device.h"

namespace lockstep {
namespace {

thread_local QueueScope* t_scope = nullptr;

bool on_cpu(Device device) { return device.type == DeviceType::cpu; }

}  // namespace

Queue Queue::create(Device device) {
  return on_cpu(device) ? Queue(device) : cuda::create_queue(device.index);
}

void Queue::synchronize() const {
  if (!on_cpu(device_)) cuda::synchronize(*this);
}

const Queue& current_queue(Device device) {
  for (const QueueScope* scope = t_scope; scope; scope = scope->outer_)
    if (scope->queue_.device() == device) return scope->queue_;
  static const Queue cpu{kCpu};
  return on_cpu(device) ? cpu : cuda::main_queue(device.index);
}

QueueScope::QueueScope(Queue queue)
    : queue_(std::move(queue)), outer_(std::exchange(t_scope, this)) {}
QueueScope::~QueueScope() { t_scope = outer_; }

Event Event::record(const Queue& queue) {
  Event event;
  event.device_ = queue.device();
  if (!on_cpu(queue.device())) event.native_ = cuda::record(queue);
  return event;
}

bool Event::done() const { return !native_ || cuda::done(device_.index, native_.get()); }

void Event::wait(const Queue& queue) const {
  if (!native_) return;
  // A CPU queue runs its work in the calling thread.
  if (on_cpu(queue.device())) return synchronize();
  cuda::wait(device_.index, native_.get(), queue);
}

void Event::synchronize() const {
  if (native_) cuda::synchronize(device_.index, native_.get());
}

}  // namespace lockstep
