#include "core/device/step_recorder.h"

#include <algorithm>

#include "core/base/error.h"

namespace lockstep {

void StepRecorder::run(const Work& work) {
  launched_ = false;
  if (work.addresses != addresses_) {
    graph_ = {};
    eager_steps_ = std::min(eager_steps_, kEagerSteps - 1);
    addresses_ = work.addresses;
  }
  if (!prevented_.empty() || eager_steps_ < kEagerSteps) {
    ++eager_steps_;
    return work.queue();
  }
  if (graph_.recorded())
    work.count();
  else if (!record(work))
    return work.queue();
  graph_.launch();
  launched_ = true;
}

// Nothing of the work has run on the device afterwards, whether it was recorded or not.
bool StepRecorder::record(const Work& work) {
  Capture capture(device_);
  try {
    work.queue();
  } catch (const EnvironmentError& e) {
    // It may have stopped anywhere, so it cannot be queued once more.
    throw EnvironmentError(
        str(e.what(), " (while a step was recorded: train.capture off queues each step anew)"));
  }
  if (!capture.prevented().empty()) {
    prevented_ = capture.prevented();
    work.take_back();
    return false;
  }
  try {
    graph_ = capture.end();
  } catch (const EnvironmentError& e) {
    prevented_ = e.what();
    work.take_back();
    return false;
  }
  return true;
}

bool StepRecorder::forget() {
  const bool recorded = graph_.recorded();
  graph_ = {};
  return recorded;
}

}  // namespace lockstep
