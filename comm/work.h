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
  // Blocks until done; the results may then be read on the host (CPU) or by any queue (devices; in
  // a group of one rank, by the queue that was current at the call). Throws the failure
  // (EnvironmentError, UsageError for mismatched calls), or TimeoutError after `timeout` (the
  // group's own limit by default), which names the call and the ranks that have not joined it, and
  // aborts the group: after a wait that gave up, the ranks are no longer in step. Giving up takes
  // up to a tenth of a second, as a call that waits looks at its limit by itself.
  void wait() const;
  void wait(Duration timeout) const;
  // From submission to completion; zero while running.
  Duration duration() const;
  // How long the callers of wait() were held up: communication that was not hidden behind compute.
  Duration exposed() const;

 private:
  std::shared_ptr<WorkState> state_;
};

}  // namespace lockstep::comm
