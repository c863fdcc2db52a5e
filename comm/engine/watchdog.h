// Watchdog: looks after calls that have been queued on a device, until they are done there or must
// be given up. No thread of the program waits for them meanwhile.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <optional>
#include <thread>

#include "core/base/clock.h"
#include "core/base/mutex.h"
#include "core/device/queue.h"

namespace lockstep::comm {

// Thread-safe. Functions that it is given run on its own thread.
class Watchdog {
 public:
  struct Verdict {
    std::exception_ptr failure;  // why the call may never end; null: all is well
    // How long the call may still come to its end, from the first failure on: what others did
    // before they went still counts.
    Duration grace{};
  };
  struct Call {
    Event end;
    const void* order;               // calls with the same one end in the order of add()
    std::function<Verdict()> check;  // comes every few milliseconds; does not throw
    // Comes once: with null once `end` is done, else with the failure. Does not throw.
    std::function<void(std::exception_ptr)> finish;
  };

  Watchdog() = default;
  ~Watchdog() { close(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Not after close().
  void add(Call call);
  // Waits until all calls are finished, then ends the thread.
  void close();

 private:
  struct Watched {
    Call call;
    std::optional<Clock::time_point> failing_since = {};
    bool finished = false;
  };
  void loop();
  static bool look(Watched& watched, bool check);

  Mutex mutex_;
  Condition changed_;
  std::deque<Watched> calls_ LOCKSTEP_GUARDED_BY(mutex_);  // only the thread takes some away
  bool closing_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::thread thread_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm
