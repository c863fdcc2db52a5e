// Courier: makes an agent's calls to the rendezvous, one after another, on its own thread. A call
// may hang; the agent must still react to signals and watch its ranks.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

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
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> calls_;  // the first one is under way
  std::exception_ptr error_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace lockstep::launcher
