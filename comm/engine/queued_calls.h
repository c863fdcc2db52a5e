// The calls of all groups of this process that are queued on devices and not done. A device that
// has not come to one call may wait in another group's for another rank.
#pragma once

#include <string>

#include "core/device/queue.h"

namespace lockstep::comm {

// Notes a call while it lives. Thread-safe.
class QueuedCall {
 public:
  // `what` names it in messages. Its device has come to it at `ready`, and has done it at `end`.
  QueuedCall(std::string what, const Event& ready, const Event& end);
  ~QueuedCall();
  QueuedCall(const QueuedCall&) = delete;
  QueuedCall& operator=(const QueuedCall&) = delete;

  // Another call in which the device waits: it has come to that one and has not done it. Empty if
  // there is none.
  std::string device_waits_in() const;

 private:
  friend struct QueuedCalls;
  const std::string what_;
  const Event ready_, end_;
};

}  // namespace lockstep::comm
