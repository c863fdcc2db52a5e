// Work: a collective that is under way. A cheap handle, shared by copies.
#pragma once

#include <exception>
#include <memory>

#include "core/base/clock.h"

namespace lockstep::comm {

class WorkState;

// Thread-safe. A failure is a value here: nothing is thrown until somebody waits.
class Work {
 public:
  Work() = default;  // already done
  explicit Work(std::shared_ptr<WorkState> state) : state_(std::move(state)) {}

  bool done() const;                 // finished, well or badly
  std::exception_ptr error() const;  // null while running or when all went well
  // After this, the results may be read on the host (CPU), or by work that this thread queues on
  // its current queue (devices). On a CPU it blocks until the call is done. On a device it blocks
  // until all ranks have come to the call, and makes the queue wait for the rest; what fails on the
  // device after that ends the group, and so fails its later calls and those of its host group.
  //
  // Throws the failure (EnvironmentError, UsageError for mismatched calls), or TimeoutError after
  // `timeout` (the group's own limit by default), which names the call and the ranks that have not
  // joined it, and aborts the group: after a wait that gave up, the ranks are no longer in step.
  // Giving up takes up to a tenth of a second, as a call that waits looks at its limit by itself.
  void wait() const;
  void wait(Duration timeout) const;
  // Blocks the host until done, on a device, too. Throws as wait() does.
  void synchronize() const;
  // From submission to completion; zero while running.
  Duration duration() const;
  // How long the callers of wait(), and on a device their queues, were held up: communication that
  // was not hidden behind compute. Counts a queue once it has gone on.
  Duration exposed() const;
  // The part of it in which queues waited, and whether wait() has made any do so.
  Duration exposed_on_queue() const;
  bool waits_on_queue() const;

 private:
  std::shared_ptr<WorkState> state_;
};

}  // namespace lockstep::comm
