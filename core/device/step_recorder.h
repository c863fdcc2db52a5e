// StepRecorder: a step's work on the device, recorded once and then launched as a whole
// (core/device/capture.h). Launching takes the host no time, whatever the model's size.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/device/capture.h"

namespace lockstep {

// Not thread-safe.
class StepRecorder {
 public:
  // So many steps run as they are queued before one is recorded: they make what a step finds in
  // place later, such as gradients' buckets, and tables of kernels.
  static constexpr int kEagerSteps = 2;

  // Records nothing if `prevented` says why not.
  StepRecorder(Device device, std::string prevented)
      : device_(device), prevented_(std::move(prevented)) {}

  // What one step does on the device, which is the same in every step: it queues the same kernels
  // for the same memory, and waits for nothing.
  struct Work {
    std::function<void()> queue;
    // Undoes what queue() counted on the host, after it was recorded in vain.
    std::function<void()> take_back;
    // Counts on the host what a launch does without queue().
    std::function<void()> count;
    // Addresses that the work uses and that others may move. If they changed, the next step runs as
    // it is queued, and the one after it is recorded anew.
    std::vector<const void*> addresses;
  };
  void run(const Work& work);

  // Gives the memory of recorded work back. The next step is recorded anew. Returns whether there
  // was any.
  bool forget();

  // Why steps are not recorded; empty if they are, or will be.
  const std::string& prevented() const { return prevented_; }
  // Whether the last run() launched recorded work.
  bool launched() const { return launched_; }

 private:
  bool record(const Work& work);

  const Device device_;
  std::string prevented_;
  int eager_steps_ = 0;
  bool launched_ = false;
  Graph graph_;
  std::vector<const void*> addresses_;  // at the last run()
};

}  // namespace lockstep
