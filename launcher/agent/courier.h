// Courier: makes an agent's calls to the rendezvous, one after another, on a thread of its own. A
// call may hang; the agent must meanwhile heed signals and watch its ranks.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace lockstep::launcher {

// Used by one thread. The destructor drops what is not under way and waits for the call that is:
// see RendezvousClient::abandon().
class Courier {
 public:
  // `on_done` is called on the courier's thread after every call. Throws EnvironmentError where the
  // system grants no thread.
  explicit Courier(std::function<void()> on_done);
  ~Courier();
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  void send(std::function<void()> call);
  // Whether all calls have returned. Rethrows, once, what one of them threw; later calls are then
  // dropped.
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
