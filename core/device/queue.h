// Queue: an order of work on a device. Event: a point in that order. Kernels, copies, allocation
// and free take a queue and return when their work is queued. On a CPU, work is done when its call
// returns, so a CPU's queue never has anything left to do and its events are always done.
//
// All functions are thread-safe. Throws EnvironmentError if the device fails.
#pragma once

#include <memory>

#include "core/base/clock.h"
#include "core/device/device.h"

namespace lockstep {

class Queue {
 public:
  explicit Queue(Device device, std::shared_ptr<void> native = nullptr)
      : device_(device), native_(std::move(native)) {}
  // A new order of work, which later work of other queues neither waits for nor holds up. It ends
  // with its last handle, once its work is done.
  static Queue create(Device device);

  Device device() const { return device_; }
  void* native() const { return native_.get(); }  // the stream on CUDA; null on a CPU
  // Blocks the host until all work queued so far is done.
  void synchronize() const;
  friend bool operator==(const Queue&, const Queue&) = default;

 private:
  Device device_;
  std::shared_ptr<void> native_;
};

// The queue of this thread's work on the device: the innermost QueueScope's, else the device's main
// queue, which all threads share.
const Queue& current_queue(Device device);

// While it lives, `queue` is this thread's current queue of its device. Scopes nest.
class QueueScope {
 public:
  explicit QueueScope(Queue queue);
  ~QueueScope();
  QueueScope(const QueueScope&) = delete;
  QueueScope& operator=(const QueueScope&) = delete;

 private:
  friend const Queue& current_queue(Device device);
  Queue queue_;
  QueueScope* outer_;
};

// A handle; copies are the same event. One that was never recorded is done.
class Event {
 public:
  Event() = default;
  // A new event at the end of what is queued there now.
  static Event record(const Queue& queue);

  bool done() const;
  // Later work of `queue` starts after the event. The host goes on at once.
  void wait(const Queue& queue) const;
  // Blocks the host.
  void synchronize() const;
  // How long after `start`, an event of the same device, this one was reached. Both are done. Zero
  // if one was never recorded, and on a CPU.
  Duration since(const Event& start) const;

  // Where it was recorded; a CPU if it never was.
  Device device() const { return device_; }

 private:
  Device device_;
  std::shared_ptr<void> native_;  // null: done
};

}  // namespace lockstep
