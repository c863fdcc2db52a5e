#include "core/device/queue.h"

#include <utility>

#include "core/base/error.h"
#include "core/device/capture.h"
#include "core/device/cuda_device.h"

namespace lockstep {
namespace {

thread_local QueueScope* t_scope = nullptr;

bool on_cpu(Device device) { return device.type == DeviceType::cpu; }

constexpr const char* kBetweenQueues = "an event between two queues";

// Stands for a point in work that is being recorded. Nobody may need it: the work has no such point
// each time it is launched.
const std::shared_ptr<void>& within_graph() {
  static const std::shared_ptr<void> mark = std::make_shared<int>();
  return mark;
}
void refuse_within_graph() {
  check(Capture::active(),
        "[event] expected an event of a queue, got one of work that was recorded as a graph: wait "
        "for the queue that launched it");
  Capture::prevent(kBetweenQueues);
}

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
  if (on_cpu(queue.device())) return event;
  event.native_ = Capture::records(queue) ? within_graph() : cuda::record(queue);
  return event;
}

bool Event::done() const {
  if (!native_) return true;
  if (native_ == within_graph()) return refuse_within_graph(), true;
  return cuda::done(device_.index, native_.get());
}

void Event::wait(const Queue& queue) const {
  if (!native_) return;
  // A CPU queue runs its work in the calling thread.
  if (on_cpu(queue.device())) return synchronize();
  if (native_ == within_graph()) return refuse_within_graph();
  if (Capture::records(queue)) return Capture::prevent(kBetweenQueues);
  cuda::wait(device_.index, native_.get(), queue);
}

void Event::synchronize() const {
  if (!native_) return;
  if (native_ == within_graph()) return refuse_within_graph();
  cuda::synchronize(device_.index, native_.get());
}

Duration Event::since(const Event& start) const {
  if (!native_ || !start.native_) return Duration::zero();
  return cuda::elapsed(device_.index, start.native_.get(), native_.get());
}

}  // namespace lockstep
