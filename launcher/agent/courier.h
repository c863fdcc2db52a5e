// Courier: makes an agent's calls to the rendezvous, one after another, on its own thread. A call
// may hang; the agent must still react to signals and watch its ranks.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <string>
#include <thread>

#include "core/base/mutex.h"

namespace lockstep::launcher {

// Used by one thread. The destructor drops calls that have not begun and waits for the one under
// way. RendezvousClient::abandon() ends that call early.
class Courier {
 public:
  // Calls `on_done` on the courier's thread after every call. Throws EnvironmentError if the system
  // refuses a thread.
  explicit Courier(std::function<void()> on_done);
  ~Courier();
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  void send(std::function<void()> call);
  // Whether all calls have returned. If a call threw, rethrows its exception once and drops all
  // later calls.
  bool idle();

 private:
  void run();

  std::function<void()> on_done_;
  Mutex mutex_;
  Condition changed_;
  // The first one is under way.
  std::deque<std::function<void()>> calls_ LOCKSTEP_GUARDED_BY(mutex_);
  std::exception_ptr error_ LOCKSTEP_GUARDED_BY(mutex_);
  bool stopping_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace lockstep::launcher
