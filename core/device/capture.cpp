#include "core/device/capture.h"

#include <utility>

#include "core/base/error.h"
#include "core/device/cuda_device.h"

namespace lockstep {
namespace {

thread_local Capture* t_capture = nullptr;

Queue queue_for(Device device) {
  check(device.type != DeviceType::cpu,
        "[capture] expected a CUDA device, got a CPU, whose work is done when it is called");
  check(!Capture::active(), "[capture] this thread records work already; end that first");
  return Queue::create(device);
}

}  // namespace

void Graph::launch() const {
  check(recorded(), "[graph] launch() of a graph that was never recorded");
  cuda::launch_graph(native_.get(), current_queue(device_));
}

Capture::Capture(Device device) : outside_(current_queue(device)), queue_(queue_for(device)) {
  cuda::begin_capture(queue_);
  scope_ = std::make_unique<QueueScope>(queue_);
  t_capture = this;
}

Capture::~Capture() {
  if (!scope_) return;
  scope_.reset();
  t_capture = nullptr;
  cuda::drop_capture(queue_);
}

Graph Capture::end() {
  check(prevented_.empty(), "[capture] this work cannot be a graph: ", prevented_);
  check(scope_ != nullptr, "[capture] end() was called before");
  scope_.reset();
  t_capture = nullptr;
  Graph graph;
  graph.device_ = queue_.device();
  graph.native_ = cuda::end_capture(queue_);
  return graph;
}

bool Capture::active() { return t_capture != nullptr; }

bool Capture::records(const Queue& queue) { return t_capture && t_capture->queue_ == queue; }
const Queue& Capture::outside(const Queue& queue) {
  return records(queue) ? t_capture->outside_ : queue;
}
void Capture::prevent(const std::string& why) {
  if (t_capture && t_capture->prevented_.empty()) t_capture->prevented_ = why;
}

}  // namespace lockstep
