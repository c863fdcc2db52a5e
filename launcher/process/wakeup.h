// Wakeup: wakes the agent's loop from another thread.
#pragma once

namespace lockstep::launcher {

// ring() is safe from any thread.
class Wakeup {
 public:
  // Throws EnvironmentError.
  Wakeup();
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  int fd() const { return fd_; }  // readable from ring() to clear()
  void ring();
  void clear();

 private:
  int fd_ = -1;
};

}  // namespace lockstep::launcher
