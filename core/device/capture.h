// Recorded work: what the host queues for a training step, recorded once and started again as a
// whole. On CUDA it is a graph.
//
//   Capture capture(device);
//   …                            work of this thread on the device is recorded, and does not run
//   const Graph step = capture.end();
//   step.launch();               runs it all, in the order of the current queue
//
// A graph holds addresses and values as they were when it was recorded. So all that changes from
// one launch to the next must be in memory of the device, at the same place. Whatever cannot be a
// part of a graph says so by Capture::prevent(); such a graph cannot be had, and the work must be
// queued again. Copies from the host run at once then, so that what they fill may be kept. A copy
// to the host gives zeros.
#pragma once

#include <memory>
#include <string>

#include "core/device/queue.h"

namespace lockstep {

class Graph {
 public:
  Graph() = default;
  bool recorded() const { return native_ != nullptr; }
  // Queues the work on the current queue of its device. Throws UsageError if nothing was recorded,
  // and EnvironmentError if the device fails.
  void launch() const;

 private:
  friend class Capture;
  Device device_;
  std::shared_ptr<void> native_;
};

// While it lives, this thread's work on `device` is recorded. Memory that it allocates there and
// frees again belongs to the graph, which uses it at each launch: nobody else gets it while the
// graph lives. The host must not wait for the device. Not thread-safe, and not nested.
class Capture {
 public:
  // Throws UsageError for a CPU, whose work is done when it is called, and within another one.
  explicit Capture(Device device);
  // Drops what was recorded, unless end() was called.
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  // What prevents the graph from being used; empty: nothing. The first reason counts.
  const std::string& prevented() const { return prevented_; }
  // Ends the recording. Throws UsageError if prevented() is not empty.
  Graph end();

  // Whether this thread's work is being recorded.
  static bool active();
  // Whether it is the queue in whose order this thread's work is being recorded.
  static bool records(const Queue& queue);
  // Where work goes that cannot be recorded and runs at once instead: the queue of the device that
  // was current before. `queue` itself unless it is being recorded.
  static const Queue& outside(const Queue& queue);
  // Notes why the work that is being recorded cannot be a graph. Outside of a Capture it does
  // nothing.
  static void prevent(const std::string& why);

 private:
  Queue outside_;
  Queue queue_;  // of its own, so that no other thread's work is recorded
  std::unique_ptr<QueueScope> scope_;
  std::string prevented_;
};

}  // namespace lockstep
