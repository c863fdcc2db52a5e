// Lets a program end this thread's waits from outside: a Python interpreter on Ctrl-C.
#pragma once

#include "core/base/clock.h"

namespace lockstep::comm {

// While it lives, waits of this thread call `check` about every 20 ms, and end once it has returned
// true: as a wait that reached its limit does, with a TimeoutError that says "interrupted", and so
// with the group. `check` must not throw. Scopes nest; the innermost counts, and with a null
// `check` nothing ends its waits. Used by one thread.
class InterruptScope {
 public:
  explicit InterruptScope(bool (*check)());
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  // Whether this thread's waits must end. Cheap enough for every turn of a wait's loop.
  static bool interrupted();
  // Whether a wait of this thread must call interrupted() from time to time.
  static bool watched();

 private:
  bool ask();

  bool (*check_)();
  bool ended_ = false;
  Clock::time_point next_;
  InterruptScope* outer_;
};

}  // namespace lockstep::comm
